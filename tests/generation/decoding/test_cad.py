"""CAD by hand, against two separate passes, in batches and streams, and where it is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.decoding.cad import CAD
from mrrag_llamaindex.steering.ifa import IFA

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5


def test_formula_by_hand_removes_no_token():
    """1.5 * (2, 0, -3) - .5 * (1, 1, 1) = (2.5, -.5, -5), up to a constant."""
    scores, without = torch.tensor([[2.0, 0.0, -3.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    found = CAD().contrast.guided(scores, without).softmax(-1)[0].tolist()
    total = sum(map(math.exp, (2.5, -0.5, -5.0)))
    assert found == pytest.approx([math.exp(x) / total for x in (2.5, -0.5, -5.0)], abs=1e-6)


def test_a_token_that_may_not_be_given_stays_out():
    scores, without = torch.tensor([[1.0, -torch.inf]]), torch.tensor([[0.0, -torch.inf]])
    assert CAD().contrast.guided(scores, without)[0].exp().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_first_token_is_that_of_two_separate_passes(engine, trials, alpha):
    for trial in trials:
        read = engine.read_image(trial.image)
        both = [trial.request, replace(trial.request, documents=())]
        one, two = (
            engine.runner.logits([engine.prompt(request, read).input_ids], [read])[0, -1]
            for request in both
        )
        expected = ((1 + alpha) * one - alpha * two).softmax(-1)
        (answer,) = engine.generate([trial.request], [trial.image], decoding=CAD(alpha))
        assert answer.p_yes == pytest.approx(float(expected[engine.yes_ids].sum()), abs=TOLERANCE)
        assert answer.p_no == pytest.approx(float(expected[engine.no_ids].sum()), abs=TOLERANCE)
        (plain,) = engine.generate([trial.request], [trial.image])
        assert abs(plain.p_yes - answer.p_yes) > 1e-4


def test_batch_equals_one_at_a_time_even_beside_a_prompt_without_documents(engine, trials):
    requests = [trial.request for trial in trials]
    requests.append(replace(requests[0], documents=()))
    images = [trial.image for trial in trials] + [trials[0].image]
    together = engine.generate(requests, images, decoding=CAD())
    for request, image, one in zip(requests, images, together, strict=True):
        (alone,) = engine.generate([request], [image], decoding=CAD())
        assert one.text == alone.text
        assert one.p_yes == pytest.approx(alone.p_yes, abs=TOLERANCE)
    (plain,) = engine.generate(requests[-1:], images[-1:])
    assert together[-1].text == plain.text
    assert together[-1].p_yes == pytest.approx(plain.p_yes, abs=TOLERANCE)


def test_without_strength_or_documents_there_is_no_second_pass(engine, trials, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a second pass was prepared")

    monkeypatch.setattr("mrrag_llamaindex.generation.decoding.guidance.Guidance", refuse)
    trial = trials[0]
    bare = replace(trial.request, documents=())
    for request, decoding in ((trial.request, CAD(0.0)), (bare, CAD())):
        (answer,) = engine.generate([request], [trial.image], decoding=decoding)
        (plain,) = engine.generate([request], [trial.image])
        assert (answer.text, answer.p_yes) == (plain.text, plain.p_yes)


def test_it_is_not_combined_with_a_policy(engine, trials):
    with pytest.raises(SteeringError, match="CAD is not combined with IFA"):
        engine.generate([trials[0].request], [trials[0].image], policy=IFA(), decoding=CAD())


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match="alpha"):
        CAD(alpha)
