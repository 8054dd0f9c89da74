"""Policies through the engine: what the answer says of them, and sweeps on one shared prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.layers.blocking import Example
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform

pytestmark = pytest.mark.usefixtures("one_thread")

POLICIES = [
    None,
    IFA(),
    IFA(image=0.5),
    Uniform(),
    HardMask(),
    HardMask(mode="drop"),
    IFA(every_step=True),
    HardMask(every_step=True),
    PASTA(every_step=False),
    PASTA(),
    PAI(guidance=1.0),
    PAI(alpha=0.5),
]
TOLERANCE = 1e-5


def make_engine(backend: str = "rows", **options) -> LlavaEngine:
    loaded = load_model(defaults.PHANTOM, device="cpu", backend=backend)
    return LlavaEngine(loaded, max_new_tokens=3, **options)


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    return make_engine()


@pytest.fixture(scope="module")
def trials() -> list[Example]:
    """Prompts of unequal length; two of four documents of the second are irrelevant."""
    return draw_trials(21, 1, documents=2, irrelevant=1) + draw_trials(
        22, 1, documents=4, irrelevant=2
    )


def ask(engine: LlavaEngine, trials: list[Example], policy):
    return engine.generate([t.request for t in trials], [t.image for t in trials], policy=policy)


@pytest.mark.parametrize("policy", POLICIES[1:], ids=repr)
def test_batch_equals_single_and_eager_equals_rows(engine, trials, policy):
    together = ask(engine, trials, policy)
    eager = ask(make_engine("eager"), trials, policy)
    for trial, one, other in zip(trials, together, eager, strict=True):
        (alone,) = ask(engine, [trial], policy)
        for answer in (alone, other):
            assert answer.text == one.text
            assert answer.p_yes == pytest.approx(one.p_yes, abs=TOLERANCE)
            assert answer.steering == one.steering


@pytest.mark.parametrize("policy", POLICIES[1:], ids=repr)
def test_every_policy_moves_the_answer(engine, trials, policy):
    (plain,), (moved,) = ask(engine, trials[1:], None), ask(engine, trials[1:], policy)
    assert abs(plain.p_yes - moved.p_yes) + abs(plain.p_no - moved.p_no) > 1e-6


def test_outcome_tells_rows_and_columns_of_each_policy(engine, trials):
    trial = trials[1]
    prompt = engine.prompt(trial.request, engine.read_image(trial.image))
    length, (start, stop) = len(prompt.input_ids), prompt.question_span
    sizes = [b - a for a, b in prompt.document_spans]
    low = sum(n for n, value in zip(sizes, prompt.lambdas, strict=True) if value == 0)
    layers = tuple(range(engine.planner.depth))
    image = prompt.image_span[1] - prompt.image_span[0]
    expected = {
        IFA(): (stop - start, sum(sizes) - low, engine.loaded.critical_layers),
        Uniform(layers=(0,)): (stop - start, sum(sizes), (0,)),
        HardMask(question_rows="to_end"): (length - start, low, layers),
        PASTA(): (length - start, length - sum(sizes) + low, engine.loaded.critical_layers),
        PAI(): (1, image, layers),
    }
    rows_of_ifa, columns_of_ifa, where_of_ifa = expected[IFA()]
    in_sight = IFA(image=0.5)
    expected[in_sight] = (rows_of_ifa, columns_of_ifa + image, where_of_ifa)
    of_image = {in_sight: image, PASTA(): image, PAI(): image}
    for policy, (rows, columns, where) in expected.items():
        outcome = ask(engine, [trial], policy)[0].steering
        assert outcome.applied
        assert (outcome.question_tokens, outcome.document_tokens) == (rows, columns)
        assert outcome.image_tokens == of_image.get(policy, 0)
        assert outcome.layers == where
        assert outcome.rows == ("last" if policy == PAI() else policy.question_rows)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (HardMask(), "below 0.5"),
        (PASTA(threshold=0.7), "0.7 or more"),
        (IFA(), "above zero"),
        (HardMask(mode="drop"), "off"),
    ],
)
def test_nothing_to_prefer_leaves_the_answer_alone_to_the_last_bit(engine, trials, policy, reason):
    level = [replace(d, score=0.0) for d in trials[1].request.documents]
    trial = replace(trials[1], request=replace(trials[1].request, documents=level))
    (plain,), (idle,) = ask(engine, [trial], None), ask(engine, [trial], policy)
    assert not idle.steering.applied
    assert reason in idle.steering.reason
    assert replace(idle, seconds=0.0, steering=plain.steering) == replace(plain, seconds=0.0)


def test_drop_is_the_prompt_without_those_documents(engine, trials):
    trial = trials[1]
    kept = [d for d in trial.request.documents if d.score >= 0.5]
    gone = [d.document_id for d in trial.request.documents if d.score < 0.5]
    fewer = replace(trial, request=replace(trial.request, documents=kept))
    (dropped,), (expected,) = (
        ask(engine, [trial], HardMask(mode="drop")),
        ask(engine, [fewer], None),
    )
    assert dropped.dropped == tuple(gone)
    assert expected.dropped == ()
    assert (dropped.p_yes, dropped.p_no) == (expected.p_yes, expected.p_no)
    assert dropped.document_ids == expected.document_ids == tuple(d.document_id for d in kept)


def test_drop_keeps_the_best_document_that_can_be_read(engine, trials):
    """An empty report is no document, even if it has the highest score."""
    first, second, *_ = trials[1].request.documents
    documents = [replace(first, text=" ", score=1.0), replace(second, score=0.2)]
    trial = replace(trials[1], request=replace(trials[1].request, documents=documents))
    (answer,) = ask(engine, [trial], HardMask(mode="drop"))
    assert answer.document_ids == (second.document_id,)
    assert answer.dropped == (first.document_id,)


def test_layers_of_a_policy_are_checked_by_its_name(engine, trials):
    with pytest.raises(SteeringError, match="PAI names layer 99"):
        ask(engine, trials[:1], PAI(layers=(99,)))


def test_an_image_that_is_kept_in_sight_stays_alone_where_no_document_is_steered(engine, trials):
    level = [replace(d, score=0.0) for d in trials[1].request.documents]
    trial = replace(trials[1], request=replace(trials[1].request, documents=level))
    (plain,), (idle,) = ask(engine, [trial], None), ask(engine, [trial], IFA(image=1.0))
    assert not idle.steering.applied
    assert (idle.text, idle.p_yes, idle.p_no) == (plain.text, plain.p_yes, plain.p_no)
