"""Policies that edit outputs or keys, through the engine: batches, backends, what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.attention import attention_shares
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.policies.ada_seka import AdaSEKA, KeyExperts
from mrrag_llamaindex.steering.policies.iti import ITI, HeadDirections
from mrrag_llamaindex.steering.policies.mad_rag import MADRAG
from mrrag_llamaindex.steering.policies.seka import SEKA, KeyProjections
from mrrag_llamaindex.steering.policy import SteeringPolicy

pytestmark = pytest.mark.usefixtures("one_thread")


def learned() -> list[SteeringPolicy]:
    """Policies with drawn tensors, of the phantom's shape: 4 layers, 4 and 2 heads of 32."""
    draw = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(4, 2, 32, 32, generator=draw))
    some, others = left[..., :6], left[..., 6:]
    experts = torch.stack([left[..., :3], left[..., 3:6]])
    shifts = 0.05 * torch.randn(4, 4, 32, generator=draw)
    return [
        SEKA(projections=KeyProjections(some @ some.mT, others @ others.mT), layers=(1, 2)),
        AdaSEKA(experts=KeyExperts(experts, torch.rand(2, 4, 2, 3, generator=draw)), layers=(1, 2)),
        ITI(directions=HeadDirections(shifts, torch.rand(4, 4, generator=draw)), heads_shifted=3),
    ]


POLICIES = [MADRAG(), MADRAG(alpha=0.7, layers=(1,)), *learned()]
TOLERANCE = 1e-5


def make_engine(backend: str = "rows") -> LlavaEngine:
    loaded = load_model(defaults.PHANTOM, device="cpu", backend=backend)
    return LlavaEngine(loaded, max_new_tokens=3)


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    return make_engine()


@pytest.fixture(scope="module")
def trials():
    """Prompts of unequal length; two of four documents of the second are irrelevant."""
    return draw_trials(21, 1, documents=2, irrelevant=1) + draw_trials(
        22, 1, documents=4, irrelevant=2
    )


def ask(engine, trials, policy):
    return engine.generate([t.request for t in trials], [t.image for t in trials], policy=policy)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_batch_equals_single_and_eager_equals_rows(engine, trials, policy):
    together = ask(engine, trials, policy)
    eager = ask(make_engine("eager"), trials, policy)
    for trial, one, other in zip(trials, together, eager, strict=True):
        (alone,) = ask(engine, [trial], policy)
        for answer in (alone, other):
            assert answer.text == one.text
            assert answer.p_yes == pytest.approx(one.p_yes, abs=TOLERANCE)
            assert answer.steering == one.steering
        (plain,) = ask(engine, [trial], None)
        assert abs(plain.p_yes - one.p_yes) > 1e-6
        look = attention_shares(engine, trial.request, trial.image, policy)
        assert look.p_yes == pytest.approx(one.p_yes, abs=TOLERANCE)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_warm_prefix_of_other_policies_is_not_read(engine, trials, policy):
    fresh = ask(make_engine(), trials, policy)
    ask(engine, trials, None)
    for one, other in zip(fresh, ask(engine, trials, policy), strict=True):
        assert (one.text, one.p_yes) == (other.text, other.p_yes)


@pytest.mark.parametrize("policy", [POLICIES[0], *POLICIES[2:4]], ids=repr)
def test_a_shared_prefix_is_refused_by_name(engine, trials, policy):
    prompt = engine.prompt(trials[0].request, engine.read_image(trials[0].image), policy)
    assert engine.shared_with(prompt, policy) == 0
    with pytest.raises(SteeringError, match=f"{type(policy).__name__} changes what stands before"):
        engine.planner.plan([prompt], policy, prompt.question_span[0])


def test_mad_rag_asks_before_the_documents_too(engine, trials):
    read = engine.read_image(trials[1].image)
    prompt = engine.prompt(trials[1].request, read, MADRAG())
    start, stop = prompt.question_span
    first, first_stop = prompt.first_question_span
    assert prompt.image_span[1] <= first < first_stop <= prompt.document_spans[0][0]
    assert prompt.input_ids[first:first_stop] == prompt.input_ids[start:stop]
    bare = engine.prompt(replace(trials[1].request, documents=()), read, MADRAG())
    assert bare.first_question_span is None
    assert bare.input_ids == engine.prompt(replace(trials[1].request, documents=()), read).input_ids


def test_mad_rag_without_a_share_is_the_prompt_that_asks_twice(engine, trials):
    trial = trials[1]
    read = engine.read_image(trial.image)
    twice = engine.prompt(replace(trial.request, asks_twice=True), read)
    plain = engine.runner.logits([twice.input_ids], [read])[0, -1].softmax(-1)
    (answer,) = ask(engine, [trial], MADRAG(alpha=0.0))
    assert answer.p_yes == pytest.approx(float(plain[engine.yes_ids].sum()), abs=TOLERANCE)
    assert not answer.steering.applied


def test_mad_rag_takes_all_of_the_first_question_at_a_share_of_one(engine, trials):
    """In one layer the second question's rows get the outputs of the first one's."""
    trial = trials[1]
    read = engine.read_image(trial.image)
    prompt = engine.prompt(trial.request, read, MADRAG())
    (start, stop), (first, first_stop) = prompt.question_span, prompt.first_question_span
    seen = []
    attention = engine.model.model.language_model.layers[2].self_attn.o_proj
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].clone()))
    try:
        plan, _ = engine.planner.plan([prompt], MADRAG(alpha=1.0, layers=(2,)))
        engine.runner.logits([prompt.input_ids], [read], steering=plan)
        engine.runner.logits([prompt.input_ids], [read])
    finally:
        hook.remove()
    torch.testing.assert_close(seen[0][start:stop], seen[1][first:first_stop])
    torch.testing.assert_close(seen[0][:start], seen[1][:start])


def test_only_keys_of_highlighted_documents_are_edited(engine, trials):
    """In the cache of a layer, everything else is as without the policy, up to that layer."""
    seka = replace(learned()[0], layers=(1,))
    read = engine.read_image(trials[1].image)
    prompt = engine.prompt(trials[1].request, read)
    keys = []
    for plan in (None, engine.planner.plan([prompt], seka)[0]):
        cache = DynamicCache(config=engine.model.config)
        inputs = engine.runner.inputs([prompt.input_ids], [read])
        with torch.inference_mode():
            engine.model(**inputs, past_key_values=cache, use_cache=True, steering=plan)
        keys.append([layer.keys[0] for layer in cache.layers])
    assert torch.equal(keys[0][0], keys[1][0])
    changed = (keys[0][1] - keys[1][1]).abs().amax(dim=(0, 2)) > 1e-6
    pairs = zip(prompt.document_spans, prompt.lambdas, strict=True)
    expected = [n for (start, stop), value in pairs if value >= 0.5 for n in range(start, stop)]
    assert changed.nonzero().flatten().tolist() == expected


def test_calls_without_the_policy_are_untouched_while_one_runs(engine, trials):
    """The hooks of a call act in that call alone: another thread's keys stay as they are."""
    read = engine.read_image(trials[1].image)
    inputs = engine.runner.inputs([engine.prompt(trials[1].request, read).input_ids], [read])

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return engine.model(**inputs).logits

    before, edit = plain(), learned()[0].edit([], [])
    weights = torch.ones(1, inputs["input_ids"].shape[1])
    with ThreadPoolExecutor(1) as other, edit.around(engine.model, (1, 2), weights, 0, plain):
        assert torch.equal(other.submit(plain).result(), before)
        assert not torch.allclose(plain(), before, atol=1e-3)
    assert torch.equal(plain(), before)


def test_what_was_learned_on_another_model_is_refused(engine, trials):
    seka, ada, _ = learned()
    small = torch.eye(4).expand(4, 2, 4, 4)
    few = torch.eye(32).expand(2, 2, 32, 32)
    for wrong in (
        replace(seka, projections=KeyProjections(small, small)),
        replace(seka, projections=KeyProjections(few, few)),
        replace(ada, experts=KeyExperts(few[None], torch.ones(1, 2, 2, 32))),
    ):
        with pytest.raises(SteeringError, match="it is of another model"):
            ask(engine, trials[:1], wrong)
