"""The likelihood of options is that of generating them, under the same documents and steering."""

from __future__ import annotations

import math

import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.run.option_likelihoods import (
    has_likelihoods,
    option_likelihoods,
)
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.describing import open_question
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.registry import POLICIES

TRIALS = draw_trials(3, 4, documents=4, irrelevant=2)
POLICY = pytest.mark.parametrize(
    "policy",
    [
        None,
        IFA(),
        IFA(strength=2.0, layers=(0, 1, 2, 3), question_rows="question"),
        POLICIES["pasta"](layers=(1, 2)),
        POLICIES["hard-mask"](),
    ],
    ids=repr,
)


@POLICY
def test_one_token_is_as_likely_as_the_first_token_that_is_generated(engine, policy):
    for trial in TRIALS:
        (answer,) = engine.generate([trial.request], [trial.image], policy=policy)
        found = option_likelihoods(engine, trial.request, trial.image, ["Yes", "no"], policy)
        expected = [math.log(answer.p_yes), math.log(answer.p_no)]
        assert [total for total, _ in found] == pytest.approx(expected, abs=1e-4)
        assert [count for _, count in found] == [1, 1]


@pytest.fixture(scope="module")
def describing() -> LlavaEngine:
    return LlavaEngine(load_model(defaults.PHANTOM_DESCRIBING, device="cpu"), max_new_tokens=20)


@pytest.mark.parametrize(
    "policy",
    [
        None,
        IFA(),
        IFA(strength=1.5, layers=(0, 3)),
        IFA(strength=1.5, layers=(0, 3), question_rows="question", every_step=True),
        POLICIES["pasta"](layers=(0, 1, 2)),
    ],
    ids=repr,
)
def test_several_tokens_are_as_likely_as_generating_them_one_by_one(describing, policy):
    """Rows of an answer are steered where those of generated tokens are, and nowhere else."""
    trial = TRIALS[0]
    request = PromptRequest(open_question([1, 4]), trial.request.documents)
    image = describing.read_image(trial.image)
    prompt = describing.prompt(request, image, policy, 4)
    plan, _ = describing.planner.plan([prompt], policy)
    inputs = describing.runner._inputs([prompt.input_ids], [image], 0)
    with describing.runner.alone():
        made = describing.model.generate(
            **inputs,
            steering=plan,
            do_sample=False,
            max_new_tokens=4,
            output_scores=True,
            return_dict_in_generate=True,
        )
    tokens = made.sequences[0, len(prompt.input_ids) :]
    steps = torch.stack([scores[0].log_softmax(-1) for scores in made.scores])
    expected = float(steps.gather(1, tokens[:, None]).sum())
    text = describing.tokenizer.decode(tokens, skip_special_tokens=True)
    other = "edema: present."
    found = option_likelihoods(describing, request, trial.image, [text, other], policy)
    assert found[0] == (pytest.approx(expected, abs=1e-4), len(tokens))
    assert found[1][1] == 2


def test_batches_and_order_of_options_do_not_matter(engine):
    trial, policy = TRIALS[1], IFA()
    options = ["yes", "no", "no edema", "shows nodule"]
    whole = option_likelihoods(engine, trial.request, trial.image, options, policy)
    small = engine.with_limits(batch_size=1)
    alone = option_likelihoods(small, trial.request, trial.image, options[::-1], policy)
    assert [t for t, _ in whole] == pytest.approx([t for t, _ in alone[::-1]], abs=1e-4)


def test_without_documents_there_is_nothing_to_steer(engine):
    request = PromptRequest("Is there an edema?", (PromptDocument("a", "No edema.", 0.5),))
    found = option_likelihoods(engine, request, TRIALS[0].image, ["yes", "no"], IFA())
    assert sum(math.exp(total) for total, _ in found) <= 1 + 1e-6


def test_methods_that_decode_in_a_way_of_their_own_have_none():
    assert not has_likelihoods(None, OPERA())
    assert not has_likelihoods(POLICIES["pai"](), None)
    assert has_likelihoods(None, None)
    assert has_likelihoods(IFA(question_rows="question", every_step=True), None)
