"""Shares of attention are those of the eager definition, on any backend, and touch nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.generation.attention import attention_shares
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.steering.attention.registry import ifa_attention_forward
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.steering.watch import AttentionWatch

SCORES = (1.0, 0.0, 0.5)
ALL = (0, 1, 2, 3)
STEERED = [
    None,
    IFA(),
    IFA(layers=(1, 2), question_rows="to_end"),
    POLICIES["pasta"]().at(0.1, (2,)),
    POLICIES["pai"]().attention_only(),
]


def study(seed):
    rng = np.random.default_rng(seed)
    return draw_study(rng, f"patient-{seed}", draw_findings(rng))


REQUEST = PromptRequest(
    "Is there a pleural effusion?",
    [PromptDocument(f"d{n}", study(n).report, score) for n, score in enumerate(SCORES)],
)


@pytest.fixture(scope="module")
def eager():
    model = load_model(defaults.PHANTOM, device="cpu", backend="eager")
    return LlavaEngine(model, max_new_tokens=4)


def by_definition(engine, policy, layer):
    """Sum what the eager backend returns, over the whole prompt at once."""
    image = engine.read_image(study(9).image)
    prompt = engine.prompt(REQUEST, image, policy)
    plan, _ = engine.planner.plan([prompt], policy)
    inputs = engine.runner._placed(engine.runner._inputs([prompt.input_ids], [image], 0))
    with torch.inference_mode():
        seen = engine.model(**inputs, steering=plan, output_attentions=True).attentions[layer]
    mean = seen[0].double().mean(0)
    rows = {"question": mean[slice(*prompt.question_span)].mean(0), "answer": mean[-1]}
    spans = [*prompt.document_spans, prompt.image_span, prompt.question_span]
    return {name: [float(row[slice(*span)].sum()) for span in spans] for name, row in rows.items()}


@pytest.mark.parametrize("backend", ["rows", "eager"])
@pytest.mark.parametrize("policy", STEERED, ids=str)
def test_shares_are_those_of_the_eager_definition(engine, eager, backend, policy):
    used = {"rows": engine, "eager": eager}[backend]
    layers = ALL[: used.planner.depth]
    found = attention_shares(used, REQUEST, study(9).image, policy, layers=layers)
    for layer in layers:
        expected = by_definition(eager, policy, layer)
        for rows in ("question", "answer"):
            shares = getattr(found, rows)[layer]
            values = [*shares.documents.values(), shares.image, shares.question]
            assert values == pytest.approx(expected[rows], abs=1e-5)
            assert sum(values) + shares.rest == pytest.approx(1)


def test_steering_draws_attention_to_the_document_with_the_highest_score(engine):
    layer = engine.loaded.critical_layers[0]
    plain, steered = (
        attention_shares(engine, REQUEST, study(9).image, policy) for policy in (None, IFA())
    )
    assert steered.steered == engine.loaded.critical_layers
    assert plain.steered == ()
    change = {
        name: steered.question[layer].documents[name] - share
        for name, share in plain.question[layer].documents.items()
    }
    assert max(change, key=change.__getitem__) == "d0"
    assert change["d0"] > 0


def test_looking_changes_no_answer(engine):
    image = study(9).image
    (before,) = engine.generate([REQUEST], [image], policy=IFA())
    attention_shares(engine, REQUEST, image, IFA())
    (after,) = engine.generate([REQUEST], [image], policy=IFA())
    assert (before.text, before.p_yes, before.p_no) == (after.text, after.p_yes, after.p_no)


def test_a_layer_that_the_model_lacks_is_named(engine):
    with pytest.raises(ModelError, match="layer 99"):
        attention_shares(engine, REQUEST, study(9).image, layers=(99,))


@pytest.mark.parametrize("policy", [None, IFA(), IFA(image=1.0), POLICIES["pasta"]()], ids=str)
def test_every_answer_of_a_batch_traces_its_own_shares(engine, eager, policy):
    """Prompts of unequal length, some on one image: shares are those of each asked alone."""
    few = replace(REQUEST, documents=REQUEST.documents[:2])
    none = replace(REQUEST, documents=(), question="Is there a fracture?")
    requests, images = [REQUEST, few, REQUEST, none], [study(n).image for n in (9, 9, 8, 7)]
    for used in (engine, eager):
        answers = used.generate(requests, images, policy=policy)
        for request, image, answer in zip(requests, images, answers, strict=True):
            alone = attention_shares(engine, request, image, policy)
            (layer,) = engine.loaded.critical_layers
            found, expected = answer.attention, alone.question[layer]
            assert (found.layers, found.reason) == ((layer,), "")
            assert [found.image, found.documents, found.question, found.rest] == pytest.approx(
                [
                    expected.image,
                    sum(expected.documents.values()),
                    expected.question,
                    expected.rest,
                ],
                abs=1e-5,
            )


def test_a_backend_that_never_forms_attention_says_so_in_the_trace(engine, monkeypatch):
    monkeypatch.setattr(LlavaEngine, "forms_attention", False)
    (answer,) = engine.generate([REQUEST], [study(9).image], policy=IFA())
    assert answer.attention.image is None
    assert "flex" in answer.attention.reason


def test_a_search_with_passes_of_its_own_says_so_in_the_trace(engine):
    (answer,) = engine.generate([REQUEST], [study(9).image], decoding=OPERA())
    assert answer.attention.image is None
    assert "OPERA" in answer.attention.reason


def test_a_watch_that_is_not_the_batchs_is_refused(engine):
    image = engine.read_image(study(9).image)
    ids = engine.prompt(REQUEST, image).input_ids
    rows, parts = [(len(ids) - 1, len(ids))], [(0, 1)]
    watch = AttentionWatch.over([rows], [parts], (0,), [len(ids)])
    plan = replace(SteeringPlan.nothing([len(ids)] * 2), watch=watch)
    with pytest.raises(SteeringError, match="2 prompts"):
        engine.runner.logits([ids, ids], [image, image], steering=plan)


def test_a_layer_with_terms_of_its_own_is_not_watched():
    """Its attention is not what recomputed rows would have, so nothing is said of it."""
    layer = SimpleNamespace(layer_idx=0, num_key_value_groups=1, is_causal=True, training=False)
    query = torch.randn(1, 2, 4, 8)
    for terms, seen in (({}, {0}), ({"s_aux": torch.zeros(2)}, set())):
        watch = AttentionWatch.over([[(2, 4)]], [[(0, 2)]], (0,), [4])
        plan = replace(SteeringPlan.nothing([4]), watch=watch)
        ifa_attention_forward(layer, query, query, query, None, steering=plan, **terms)
        assert set(watch.seen) == seen
