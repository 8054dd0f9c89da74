"""The effect on a sentence is what hiding a part by hand does to the words of an answer."""

from __future__ import annotations

import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.influence.sentences import sentence_effects
from mrrag_llamaindex.generation.influence.teacher_forcing import teacher_forced
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.phantom.describing import open_question
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.pai import PAI

pytestmark = pytest.mark.usefixtures("one_thread")

(TRIAL,) = draw_trials(3, 1, documents=4, irrelevant=2)
REQUEST = PromptRequest(open_question([1, 4]), TRIAL.request.documents)
STEPWISE = IFA(strength=1.5, layers=(0, 3), every_step=True)
ANSWER, SENTENCES = "nodule: absent. edema: present.", [(0, 15), (16, 31)]


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    loaded = load_model(defaults.PHANTOM_DESCRIBING, device="cpu")
    return LlavaEngine(loaded, max_new_tokens=20)


@pytest.fixture(scope="module")
def whole() -> LlavaEngine:
    """The same model on the eager backend: every prompt read whole, by the definition."""
    loaded = load_model(defaults.PHANTOM_DESCRIBING, device="cpu", backend="eager")
    return LlavaEngine(loaded, max_new_tokens=20)


def by_hand(engine, policy, cut: tuple[int, int] | None) -> list[float]:
    """Mean log-probability of both sentences, with a span cut out of every mask."""
    read = engine.read_image(TRIAL.image)
    prompt = engine.prompt(REQUEST, read)
    ids = teacher_forced(engine, prompt, ANSWER).ids
    plan, _ = engine.planner.plan([prompt], policy)

    def hide(module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        if cut is not None:
            low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            mask[:, :, prompt.question_span[0] :, slice(*cut)] = low
        return args, {**kwargs, "attention_mask": mask}

    layers = engine.model.model.language_model.layers
    handles = [one.self_attn.register_forward_pre_hook(hide, with_kwargs=True) for one in layers]
    try:
        logits = engine.runner.logits(
            [ids], [read], keep=5, steering=None if plan is None else plan.followed_by(4)
        )
    finally:
        for handle in handles:
            handle.remove()
    steps = logits[0, :-1].log_softmax(-1)
    words = [float(steps[n, ids[n - 4]]) for n in range(4)]  # two tokens to a sentence
    return [(words[0] + words[1]) / 2, (words[2] + words[3]) / 2]


@pytest.mark.parametrize("policy", [None, STEPWISE], ids=repr)
@pytest.mark.parametrize("batch_size", [8, 2])
def test_effects_equal_hiding_every_part_by_hand(engine, whole, policy, batch_size):
    small = engine.with_limits(batch_size=batch_size)
    found = sentence_effects(small, REQUEST, TRIAL.image, ANSWER, SENTENCES, policy)
    prompt = whole.prompt(REQUEST, whole.read_image(TRIAL.image))
    base = by_hand(whole, policy, None)
    assert [one.tokens for one in found] == [2, 2]
    assert [one.log_probability for one in found] == pytest.approx(base, abs=1e-4)
    for document, span in zip(prompt.documents, prompt.document_spans, strict=True):
        without = by_hand(whole, policy, span)
        effects = [one.documents[document.document_id] for one in found]
        expected = [a - b for a, b in zip(base, without, strict=True)]
        assert effects == pytest.approx(expected, abs=1e-4)
    assert all(one.together is not None for one in found)
    between = engine.with_limits(max_documents=1)  # a single document is all of them
    for one in sentence_effects(between, REQUEST, TRIAL.image, ANSWER, SENTENCES, policy):
        assert [one.together] == pytest.approx(list(one.documents.values()), abs=1e-5)
    without = by_hand(whole, policy, prompt.image_span)
    expected = [a - b for a, b in zip(base, without, strict=True)]
    assert [one.image for one in found] == pytest.approx(expected, abs=1e-4)
    assert max(abs(effect) for one in found for effect in one.documents.values()) > 0.05


def test_rows_of_the_answer_are_steered_where_the_policy_steers_them(engine):
    prompt_alone = IFA(strength=1.5, layers=(0, 3))
    one, two = (
        sentence_effects(engine, REQUEST, TRIAL.image, ANSWER, SENTENCES, policy)[1]
        for policy in (prompt_alone, STEPWISE)
    )
    assert abs(one.log_probability - two.log_probability) > 1e-3
    (answer,) = engine.generate([REQUEST], [TRIAL.image], policy=STEPWISE)
    assert answer.steering.every_step


def test_a_prompt_without_documents_and_image_has_no_effects(engine):
    (bare,) = sentence_effects(engine, PromptRequest(REQUEST.question), None, ANSWER, [(0, 31)])
    assert (bare.documents, bare.together, bare.image, bare.tokens) == ({}, None, None, 4)


def test_what_cannot_be_told_is_refused_by_name(engine):
    with pytest.raises(InputError, match="sentence 2 of the answer holds no token"):
        sentence_effects(engine, REQUEST, TRIAL.image, ANSWER, [(0, 15), (15, 16)])
    with pytest.raises(SteeringError, match=r"PAI\(guidance=1\)"):
        sentence_effects(engine, REQUEST, TRIAL.image, ANSWER, SENTENCES, PAI(guidance=1.5))
