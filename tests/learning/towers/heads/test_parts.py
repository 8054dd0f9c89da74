"""What stands around the heads: raw features, ensembles, questions, scales, worth; by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mrrag_llamaindex.learning.towers.contrastive import info_nce
from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures, HeadsEncoder
from mrrag_llamaindex.learning.towers.heads.scales import term_scales, vectors_of
from mrrag_llamaindex.learning.towers.heads.worth import warning_of, worth_of_heads
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import similarity_terms
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.towers.projection_head import FittedHeads, HeadEnsemble, ProjectionHead
from mrrag_llamaindex.towers.raw_projection import RawProjection


def drawn(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_raw_features_keep_their_inner_products_and_their_first_direction():
    features = drawn(200, 5) * torch.tensor([9.0, 3.0, 1.0, 0.5, 0.1]) + 4
    centred = features - features.mean(dim=0)
    whole = RawProjection.fitted(features, 5)
    assert torch.allclose(whole(features) @ whole(features).T, centred @ centred.T, atol=1e-2)
    first = RawProjection.fitted(features, 1)
    assert first.components[0].abs().argmax() == 0
    assert float(first.components[0, 0]) > 0.99  # not -0.99: the sign is fixed
    # No whitening: the first direction is three times as loud as the second.
    ratio = RawProjection.fitted(features, 2)(features).std(dim=0)
    assert float(ratio[0] / ratio[1]) == pytest.approx(3, rel=0.2)
    assert RawProjection.fitted(features[:4], 5).length == 3


def test_cosine_of_ensembles_is_the_mean_of_their_members():
    torch.manual_seed(0)
    images, texts = ([ProjectionHead(4, 3).eval() for _ in range(3)] for _ in range(2))
    image, text = drawn(1, 4, 1), drawn(1, 4, 2)
    cosines = [
        float(normalize(i(image)) @ normalize(t(text)).T)
        for i, t in zip(images, texts, strict=True)
    ]
    i, t = HeadEnsemble(images), HeadEnsemble(texts)
    assert (i.dimension, i.inputs) == (9, 4)
    together = float(normalize(i(image)) @ normalize(t(text)).T)
    assert together == pytest.approx(sum(cosines) / 3, abs=1e-6)


def test_several_right_ones_are_right_together():
    image, text = torch.eye(3), torch.eye(3)
    right = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    # Logits 1 on the diagonal, else 0: rows 1 and 2 have e + 1 of e + 2, row 3 has e.
    e = math.e
    by_hand = -(2 * math.log((e + 1) / (e + 2)) + math.log(e / (e + 2))) / 3
    assert float(info_nce(image, text, 1.0, right=right)) == pytest.approx(by_hand)
    alone = info_nce(image, text, 1.0, right=torch.eye(3, dtype=torch.bool))
    assert float(alone) == pytest.approx(float(info_nce(image, text, 1.0)))


def test_questions_add_two_losses_over_those_that_have_one():
    image, text, question = drawn(5, 4, 1), drawn(5, 4, 2), drawn(5, 4, 3)
    question[2] = 0
    owner = torch.tensor([0, 0, 1, 2, 3])
    torch.manual_seed(0)
    heads = ProjectionHead(4, 3), ProjectionHead(4, 3)
    encoder = HeadsEncoder(*heads, HeadFeatures(image, text, question, owner))
    encoder.module.eval()
    rows = torch.arange(5)
    found = encoder.further_loss(rows, heads[0](image), heads[1](text), 0.2)
    kept = torch.tensor([0, 1, 3, 4])
    right = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    asked = heads[1](question[kept])
    by_hand = 0.3 * sum(
        info_nce(asked, other[kept], 0.2, right=right)
        for other in (heads[0](image), heads[1](text))
    )
    assert float(found) == pytest.approx(float(by_hand))
    one_patient = HeadFeatures(image, text, question, torch.zeros(5, dtype=torch.int64))
    assert HeadsEncoder(*heads, one_patient).further_loss(rows, image, text, 0.2) is None
    without = HeadFeatures(image, text, None, owner)
    assert HeadsEncoder(*heads, without).further_loss(rows, image, text, 0.2) is None


@pytest.fixture
def fitted():
    torch.manual_seed(1)
    heads = ProjectionHead(6, 4).eval(), ProjectionHead(5, 4).eval()
    features = HeadFeatures(drawn(60, 6, 1), drawn(60, 5, 2) * 3, None, torch.arange(60) // 2)
    raw = RawProjection.fitted(features.image, 3), RawProjection.fitted(features.text, 2)
    return heads, raw, features


def test_scaled_similarities_vary_alike(fitted):
    heads, raw, features = fitted
    scales = term_scales(heads, raw, features, torch.arange(60))
    assert math.prod(scales) == pytest.approx(1.0)
    blocks = Blocks(4, 3, 2, scales)
    image = vectors_of(heads[0], raw[0], features.image)
    text = vectors_of(heads[1], raw[1], features.text)
    spreads = []
    for row in range(60):
        others = np.arange(60) // 2 != row // 2
        halves = image[others], text[others]
        terms = similarity_terms(image[row], text[row], *halves, terms=ALL_TERMS, blocks=blocks)
        spreads.append(terms.std(axis=0))
    spread = np.mean(spreads, axis=0)
    assert spread == pytest.approx([spread[0]] * 6, rel=1e-4)


def test_worth_tells_heads_that_help_from_those_that_mislead():
    cause = drawn(80, 3, 5)
    image = torch.cat([cause, 2 * drawn(80, 6, 6)], dim=1)  # mostly what the report never says
    features = HeadFeatures(image, cause @ drawn(3, 5, 7), None, torch.arange(80))
    raw = RawProjection.fitted(features.image, 9), RawProjection.fitted(features.text, 3)
    helpful, misled = ProjectionHead(9, 3), ProjectionHead(9, 3)
    text = ProjectionHead(5, 3)
    with torch.no_grad():
        for head, kept in ((helpful, range(3)), (misled, range(4, 7))):
            head.layers[0].weight.zero_()
            head.layers[0].bias.zero_()
            for row, column in enumerate(kept):
                head.layers[0].weight[row, column] = 1
        text.layers[0].weight.copy_(torch.linalg.pinv(drawn(3, 5, 7)).T)
        text.layers[0].bias.zero_()
    rows = torch.arange(80)
    good = worth_of_heads(FittedHeads(helpful, text, {}, raw), features, rows, 0)
    bad = worth_of_heads(FittedHeads(misled, text, {}, raw), features, rows, 0)
    assert good["gain_ci"][0] > 0
    assert good["trained"] > good["untrained"] > good["chance"]
    assert warning_of(good) is None
    assert bad["gain_ci"][0] < 0
    assert "no" in warning_of(bad)
    assert good["queries"] == 80
    # Towers without raw features are measured without them, against the same encoders.
    alone = worth_of_heads(FittedHeads(misled, text, {}, raw), features, rows, 0, raw=False)
    assert alone["untrained"] == bad["untrained"]
    assert alone["trained"] < bad["trained"]
    worse = {**alone, "gain_ci": [-0.2, -0.1], "over_chance_ci": [0.1, 0.2]}
    assert "leave out --raw 0" in warning_of(worse)
