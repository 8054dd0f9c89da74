"""A prefix computed once gives the answers of prompts computed whole, and never another's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.learning.layers.blocking import Example
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA

QUESTIONS = ["Is there a pleural effusion?", "Is there edema?", "Does the image show a nodule?"]
TOLERANCE = 2e-6


@pytest.fixture
def engine() -> LlavaEngine:
    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=4)


@pytest.fixture(scope="module")
def whole() -> LlavaEngine:
    """The same model, without any sharing: every prompt is prefilled whole."""
    loaded = load_model(defaults.PHANTOM, device="cpu")
    family = replace(loaded.family, shares_prefix=False)
    return LlavaEngine(replace(loaded, family=family), max_new_tokens=4)


@pytest.fixture(scope="module")
def trials() -> list[Example]:
    return draw_trials(11, 4, documents=4, irrelevant=2)


def asked(trial: Example, question: str) -> PromptRequest:
    return replace(trial.request, question=question)


def prefills(engine: LlavaEngine, monkeypatch) -> list[int]:
    """Lengths of the forward passes that see an image."""
    lengths: list[int] = []
    forward = type(engine.model).forward

    def counting(self, *args, **kwargs):
        if kwargs.get("pixel_values") is not None:
            lengths.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    counting.__signature__ = forward.__signature__
    monkeypatch.setattr(type(engine.model), "forward", counting)
    return lengths


@pytest.mark.parametrize("ifa", [None, IFA(), IFA(question_rows="question")])
def test_questions_on_one_image_equal_whole_prompts(engine, whole, trials, ifa):
    requests = [asked(trials[0], question) for question in QUESTIONS]
    images = [trials[0].image] * 3
    for found, expected in zip(
        engine.generate(requests, images, policy=ifa),
        whole.generate(requests, images, policy=ifa),
        strict=True,
    ):
        assert found.p_yes == pytest.approx(expected.p_yes, abs=TOLERANCE)
        assert found.text == expected.text
        assert found.steering == expected.steering


def test_other_documents_on_one_image_equal_whole_prompts(engine, whole, trials):
    requests = [replace(t.request, question=QUESTIONS[0]) for t in trials]
    images = [trials[0].image] * len(trials)
    found = engine.generate(requests, images, policy=IFA())
    expected = whole.generate(requests, images, policy=IFA())
    for one, two in zip(found, expected, strict=True):
        assert one.p_yes == pytest.approx(two.p_yes, abs=TOLERANCE)
        assert one.steering == two.steering


def test_image_and_documents_are_prefilled_once_for_four_questions(engine, trials, monkeypatch):
    lengths = prefills(engine, monkeypatch)
    requests = [asked(trials[0], question) for question in (*QUESTIONS, QUESTIONS[0])]
    engine.generate(requests, [trials[0].image] * 4, policy=IFA())
    assert len(lengths) == 1


def test_answer_is_the_same_to_the_last_bit_whether_or_not_its_prefix_was_kept(engine, trials):
    """Otherwise a number would depend on what was asked before."""
    request, image = trials[0].request, trials[0].image
    (first,) = engine.generate([request], [image], policy=IFA())
    (second,) = engine.generate([request], [image], policy=IFA())
    assert engine.runner.prefixes.hits == 1
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_kept_prefix_is_not_written_to(engine, trials):
    request, image = trials[0].request, trials[0].image
    engine.generate([request], [image], policy=IFA())
    (kept,) = engine.runner.prefixes._kept.values()
    before = [layer.keys.clone() for layer in kept.layers]
    length = kept.get_seq_length()
    engine.generate([asked(trials[0], q) for q in QUESTIONS], [image] * 3, policy=IFA(strength=3))
    assert kept.get_seq_length() == length
    assert all(torch.equal(a, layer.keys) for a, layer in zip(before, kept.layers, strict=True))


def test_steering_of_one_question_does_not_reach_the_next(engine, whole, trials):
    request, image = trials[0].request, trials[0].image
    engine.generate([request], [image], policy=IFA(strength=5))
    (plain,) = engine.generate([request], [image])
    (expected,) = whole.generate([request], [image])
    assert engine.runner.prefixes.hits == 1
    assert plain.p_yes == pytest.approx(expected.p_yes, abs=TOLERANCE)


def test_another_image_with_the_same_words_is_another_prefix(engine, whole, trials):
    request = trials[0].request
    for trial in trials:
        (found,) = engine.generate([request], [trial.image])
        (expected,) = whole.generate([request], [trial.image])
        assert found.p_yes == pytest.approx(expected.p_yes, abs=TOLERANCE)
    assert engine.runner.prefixes.hits == 0


def test_one_changed_pixel_is_another_image(engine, trials):
    request, image = trials[0].request, trials[0].image.copy()
    engine.generate([request], [image])
    image.paste((255, 255, 255), (40, 40, 60, 60))
    engine.generate([request], [image])
    assert engine.runner.prefixes.hits == 0


@pytest.mark.parametrize(("capacity", "hits"), [(0, 0), (1, 0), (2, 2)])
def test_capacity_bounds_what_is_kept(trials, capacity, hits):
    engine = LlavaEngine(
        load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=4, prefix_cache=capacity
    )
    for _ in range(2):
        for trial in trials[:2]:
            engine.generate([trial.request], [trial.image])
    assert engine.runner.prefixes.hits == hits
    assert len(engine.runner.prefixes._kept) <= capacity


def test_requests_and_images_must_be_as_many(engine, trials):
    with pytest.raises(InputError, match="2 requests and 1 images"):
        engine.generate([trials[0].request] * 2, [trials[0].image])


def test_answers_come_in_the_order_of_the_requests(engine, trials):
    requests, images = [], []
    for trial in trials:
        for question in QUESTIONS[:2]:
            requests.append(asked(trial, question))
            images.append(trial.image)
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    straight = engine.generate(requests, images, policy=IFA())
    pictures = [images[i] for i in order]
    shuffled = engine.generate([requests[i] for i in order], pictures, policy=IFA())
    for place, index in enumerate(order):
        assert shuffled[place].document_ids == straight[index].document_ids
        assert shuffled[place].p_yes == pytest.approx(straight[index].p_yes, abs=TOLERANCE)
