"""Confidence in gold answers: by hand, against generation and against plain forward passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrrag_llamaindex.errors import InputError, ModelError, PromptError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile_store import model_identity
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
from mrrag_llamaindex.learning.mining.gold_answer import (
    mean_log_probability,
    renormalised,
)
from mrrag_llamaindex.mcr.vote import polarity
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from tests.tiny.families import FAMILIES, write

TOLERANCE = 2e-6
REPORTS = ["No pleural effusion.", "The heart is of normal size. Is there a nodule? Yes", "No"]
QUESTION = "Is there a nodule?"
OPEN_ANSWER = "The heart is of normal size"


@pytest.fixture(scope="module")
def film() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> LlavaEngine:
    folder = write(request.param, tmp_path_factory.mktemp(request.param))
    return LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=3)


def asked(question: str, document: str | None) -> PromptRequest:
    return PromptRequest(question, [PromptDocument("d", document)] if document else [])


def passes(engine: LlavaEngine, monkeypatch) -> list[tuple[int, int, bool]]:
    """(rows, tokens, image read) of every forward pass."""
    seen: list[tuple[int, int, bool]] = []
    forward = type(engine.model).forward

    def counting(self, *args, **kwargs):
        rows, tokens = kwargs["input_ids"].shape
        seen.append((rows, tokens, kwargs.get("pixel_values") is not None))
        return forward(self, *args, **kwargs)

    counting.__signature__ = forward.__signature__
    monkeypatch.setattr(type(engine.model), "forward", counting)
    return seen


def test_probability_is_renormalised_over_all_spellings_of_both_words():
    probabilities = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15])
    assert renormalised(probabilities.log(), [0, 1], [2]) == pytest.approx(0.4 / 0.6)
    assert renormalised(probabilities.log(), [2], [0, 1]) == pytest.approx(0.2 / 0.6)


def test_words_that_underflow_still_have_a_probability():
    logits = torch.tensor([0.0, -2000.0, -2000.0 - math.log(3)])
    assert renormalised(logits, [1], [2]) == pytest.approx(0.75, abs=1e-4)


def test_mean_log_probability_by_hand():
    # The last row is what follows the answer; the first stands before the position that counts.
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    expected = (math.log(0.25) + math.log(0.8)) / 2
    assert mean_log_probability(rows.log(), [1, 2]) == pytest.approx(expected)
    assert mean_log_probability(rows.log() + 5.0, [1, 2]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", "yes"),
        ("Yes, on the left.", "yes"),
        ("YES it does", "yes"),
        (" no ", "no"),
        ("No.", "no"),
        ("No, the lungs are clear", "no"),
        ("No) it is clear", "no"),
        ("No — it is clear", "no"),
        ("no - not here", "no"),
        ("No? ", "no"),
        ("No acute disease", None),
        ("No-contrast CT", None),
        ("nodule", None),
        ("yesterday", None),
        ("Left lower lobe", None),
    ],
)
def test_first_word_says_whether_an_answer_is_yes_or_no(answer, expected):
    assert polarity(answer) == expected


@pytest.mark.parametrize("gold", ["yes", "No."])
def test_every_family_equals_what_generation_finds_at_the_first_token(family, film, gold):
    found = AnswerConfidence(family).rate(film, QUESTION, gold, [None, *REPORTS])
    for value, document in zip(found, [None, *REPORTS], strict=True):
        (answer,) = family.generate([asked(QUESTION, document)], [film], max_new_tokens=1)
        share = {"yes": answer.p_yes, "no": answer.p_no}[gold[:3].strip(".").lower()]
        assert value == pytest.approx(share / (answer.p_yes + answer.p_no), abs=TOLERANCE)


def test_every_family_equals_one_unpadded_pass_for_each_open_answer(family, film):
    found = AnswerConfidence(family).rate(film, QUESTION, OPEN_ANSWER, [None, *REPORTS])
    read = family.read_image(film)
    opening = family.loaded.profile.template.answer_opening
    for value, document in zip(found, [None, *REPORTS], strict=True):
        prompt = family.prompt(asked(QUESTION, document), read)
        ids = family.tokenizer(prompt.text + opening + OPEN_ANSWER)["input_ids"]
        start = len(prompt.input_ids)
        assert tuple(ids[:start]) == prompt.input_ids
        inputs = {"input_ids": torch.tensor([ids]), **(read.tensors if read else {})}
        marks = family.loaded.family.image_marks
        if marks:
            token = family.tokenizer.convert_tokens_to_ids(family.prompts.image_token)
            inputs[marks] = inputs["input_ids"].eq(token).long()
        with torch.inference_mode():
            scores = family.model(**inputs).logits[0].log_softmax(-1)
        logs = [float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
        assert len(logs) > 3
        assert value == pytest.approx(sum(logs) / len(logs), abs=2e-5)


@pytest.mark.parametrize("answer", ["yes", OPEN_ANSWER])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_and_shared_prefixes_change_nothing(family, film, answer, batch_size):
    documents = [None, *REPORTS]
    whole = AnswerConfidence(family, batch_size=1, share=False)
    found = AnswerConfidence(family, batch_size=batch_size).rate(film, QUESTION, answer, documents)
    expected = whole.rate(film, QUESTION, answer, documents)
    assert found == pytest.approx(expected, abs=2e-5)
    assert len(set(expected)) == len(documents)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> LlavaEngine:
    folder = write("llava", tmp_path_factory.mktemp("llava"))
    return LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=3)


@pytest.mark.parametrize("answer", ["yes", OPEN_ANSWER])
def test_image_is_prefilled_once_however_many_batches_follow(llava, film, monkeypatch, answer):
    llava.runner.prefixes.clear()
    seen = passes(llava, monkeypatch)
    AnswerConfidence(llava, batch_size=2).rate(film, QUESTION, answer, REPORTS)
    with_image = [rows for rows, _, image in seen if image]
    assert with_image == [1]
    assert [rows for rows, _, image in seen if not image] == [2, 1]


def test_padding_behind_a_shared_image_moves_no_token(llava, film):
    """Rows of unequal length: a token's position must not count the padding before it."""
    reports = ["No", "The heart is of normal size. Is there a nodule? Yes. No pleural effusion."]
    whole = AnswerConfidence(llava, batch_size=1, share=False)
    for answer in ("yes", OPEN_ANSWER):
        found = AnswerConfidence(llava).rate(film, QUESTION, answer, reports)
        expected = whole.rate(film, QUESTION, answer, reports)
        assert found == pytest.approx(expected, abs=TOLERANCE)


def test_unshared_way_is_one_whole_prefill_for_each_document(llava, film, monkeypatch):
    seen = passes(llava, monkeypatch)
    AnswerConfidence(llava, batch_size=1, share=False).rate(film, QUESTION, "yes", REPORTS)
    assert [(rows, image) for rows, _, image in seen] == [(1, True)] * 3


def test_supporting_document_is_rated_above_the_contrary_one(engine):
    trials = draw_trials(5, 12, documents=2, irrelevant=0)
    confidence = AnswerConfidence(engine)
    for trial in trials:
        gold, wrong = ("yes", "no") if trial.answer == "yes" else ("no", "yes")
        texts = [document.text for document in trial.request.documents]
        right = confidence.rate(trial.image, trial.request.question, gold, [None, *texts])
        left = confidence.rate(trial.image, trial.request.question, wrong, [None, *texts])
        assert min(right[1:]) > right[0] > 1 - min(right[1:])
        assert [a + b for a, b in zip(right, left, strict=True)] == pytest.approx([1.0] * 3)


def test_equal_documents_have_equal_confidence_to_the_last_bit(engine):
    (trial,) = draw_trials(6, 1, documents=4, irrelevant=2)
    one, two, *_ = (document.text for document in trial.request.documents)
    found = AnswerConfidence(engine).rate(
        trial.image, trial.request.question, "yes", [one, two, one, None, two]
    )
    assert found[0] == found[2]
    assert found[1] == found[4]


def test_order_of_documents_does_not_matter(llava, film):
    confidence = AnswerConfidence(llava)
    straight = confidence.rate(film, QUESTION, OPEN_ANSWER, REPORTS)
    turned = confidence.rate(film, QUESTION, OPEN_ANSWER, REPORTS[::-1])
    assert turned[::-1] == pytest.approx(straight, abs=TOLERANCE)


def test_document_that_cannot_be_read_has_no_confidence(llava, film):
    long = "The heart is of normal size. " * 400
    found = AnswerConfidence(llava).rate(film, QUESTION, "yes", [" ", long, REPORTS[0]])
    assert found[:2] == [None, None]
    assert 0 < found[2] < 1


def test_question_that_cannot_be_read_is_an_error(llava, film):
    confidence = AnswerConfidence(llava)
    for question in (" ", "Is there a nodule? " * 600):
        with pytest.raises(PromptError):
            confidence.rate(film, question, "yes", REPORTS)


@pytest.mark.parametrize("answer", ["", "  ", "a nodule <image>", "</s>"])
def test_answer_without_words_or_with_control_tokens_is_refused(llava, film, answer):
    with pytest.raises(InputError, match=r"answer is empty|answer holds"):
        AnswerConfidence(llava).rate(film, QUESTION, answer, REPORTS)


def test_model_without_a_word_for_no_says_so(llava, film):
    confidence = AnswerConfidence(llava)
    confidence._polar["no"] = []
    with pytest.raises(ModelError, match="no single token"):
        confidence.rate(film, QUESTION, "yes", REPORTS)


@pytest.mark.slow
def test_identity_is_that_of_weights_layout_and_type(tmp_path):
    first, second = (write("llava", tmp_path / n / "model", seed=0) for n in ("a", "b"))
    loaded = load_model(str(first), device="cpu")
    identity = model_identity(loaded)
    assert identity.startswith("model@")
    assert str(Path(first).parent) not in identity
    assert model_identity(load_model(str(second), device="cpu")) == identity
    other = write("llava", tmp_path / "c" / "model", seed=1)
    assert model_identity(load_model(str(other), device="cpu")) != identity
    half = load_model(str(first), device="cpu", dtype="bfloat16")
    assert model_identity(half) != identity
    template = replace(loaded.profile.template, caution="Be careful.\n")
    changed = replace(loaded, profile=replace(loaded.profile, template=template))
    assert model_identity(changed) != identity


def test_batch_size_is_checked(llava):
    with pytest.raises(ValueError, match="batch_size is 0"):
        AnswerConfidence(llava, batch_size=0)
