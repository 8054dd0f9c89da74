"""Several images in one question: the score of a pair is the mean, or the maximum, over them."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.inputs.study_scores import asked_views, query_views, score_views
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from tests.tiny import pairs as toy

COUNT, VIEWS = 60, 3
WEIGHTS = FusionWeights(0.7, 1.3, 0.4, text_image=0.2)
BLOCKS = Blocks(8)


@pytest.fixture(scope="module")
def vectors():
    images, texts = toy.unit_rows(COUNT, seed=1), toy.unit_rows(COUNT, seed=2)
    return images, texts, toy.unit_rows(VIEWS, seed=3), toy.unit_rows(1, seed=4)[0]


@pytest.fixture(scope="module")
def filled(vectors):
    with PairStore.create("memory", StoreSchema(**toy.TOWERS)) as store:
        store.upsert(toy.make_pairs(COUNT), vectors[0], vectors[1])
        yield store


def by_hand(vectors, combine):
    """f(q_v, d) written out, (views, pairs), then combined."""
    images, texts, views, question = vectors
    scores = 0.7 * views @ texts.T + 1.3 * views @ images.T
    scores = scores + 0.4 * question @ texts.T + 0.2 * question @ images.T
    return getattr(scores, combine)(axis=0)


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize("k", [1, 7, COUNT])
def test_the_best_pairs_are_those_of_the_formula(filled, vectors, combine, k):
    views, weights = asked_views(vectors[2], vectors[3], WEIGHTS, BLOCKS, combine)
    hits = query_views(filled, views, k)
    expected = by_hand(vectors, combine)
    order = np.argsort(-expected)[:k]
    assert [hit.pair_id for hit in hits] == [f"p{index}" for index in order]
    assert [hit.score for hit in hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
    assert weights == WEIGHTS
    again = score_views(filled, views, [hit.pair_id for hit in hits])
    for hit in hits:
        assert again[hit.pair_id].score == pytest.approx(hit.score, abs=1e-5)
        total = sum(weights.as_dict()[name] * value for name, value in hit.terms.items())
        assert total == pytest.approx(hit.score, abs=1e-5)


def test_terms_of_the_mean_are_means_of_terms(filled, vectors):
    views, _ = asked_views(vectors[2], vectors[3], WEIGHTS, BLOCKS)
    (hit,) = query_views(filled, views, 1)
    number = int(hit.pair_id[1:])
    assert hit.image_image == pytest.approx(vectors[0][number] @ vectors[2].mean(axis=0), abs=1e-5)
    assert hit.text_text == pytest.approx(vectors[1][number] @ vectors[3], abs=1e-5)


def test_one_image_is_searched_as_ever(filled, vectors):
    for combine in ("mean", "max"):
        views, weights = asked_views(vectors[2][:1], vectors[3], WEIGHTS, BLOCKS, combine)
        expected = filled.query(vectors[2][0], vectors[3], weights, 5)
        found = query_views(filled, views, 5)
        assert [(hit.pair_id, hit.score) for hit in found] == [
            (hit.pair_id, hit.score) for hit in expected
        ]


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_what_is_excluded_is_found_by_no_image(filled, vectors, combine):
    views, _ = asked_views(vectors[2], vectors[3], WEIGHTS, BLOCKS, combine)
    best = {hit.pair_id for hit in query_views(filled, views, 5)}
    others = query_views(filled, views, 5, Exclusion(pair_ids=frozenset(best)))
    assert len(others) == 5
    assert not best & {hit.pair_id for hit in others}


def test_images_that_say_the_opposite_are_refused(vectors):
    opposite = np.stack([vectors[2][0], -vectors[2][0]])
    with pytest.raises(InputError, match="opposite directions"):
        asked_views(opposite, vectors[3], WEIGHTS, BLOCKS)
