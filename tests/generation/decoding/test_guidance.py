"""Guidance against two separate forward passes, in batches and with steering beside it."""

from __future__ import annotations

import math

import pytest
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.decoding.contrast import Contrast
from mrrag_llamaindex.generation.decoding.guidance import Guidance
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.policies.pai import PAI

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5


def guided(scores, without, factor):
    return Contrast(factor, "image", defaults.PAI_CUTOFF).guided(scores, without)


def test_formula_and_cut_by_hand():
    scores = torch.tensor([[2.0, 1.0, -0.4, -0.2]])
    without = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    total = math.log(sum(map(math.exp, (2.0, 1.0, -0.4, -0.2))))
    u = math.log(0.25)
    # exp(-.4 - 2) = .091 of the highest: removed; exp(-.2 - 2) = .111: kept.
    expected = [1.5 * (x - total - u) + u for x in (2.0, 1.0)]
    found = guided(scores, without, 1.5)[0].tolist()
    assert found[:2] == pytest.approx(expected, abs=1e-5)
    assert found[2] == -math.inf
    assert found[3] == pytest.approx(1.5 * (-0.2 - total - u) + u, abs=1e-5)


def logits_of(engine, prompt, image=None):
    """Last logits of one prompt, by a plain forward pass."""
    inputs = {"input_ids": torch.tensor([prompt.input_ids])}
    if image is not None:
        inputs["pixel_values"] = engine.read_image(image).tensors["pixel_values"]
    with torch.inference_mode():
        return engine.model(**inputs).logits[:, -1].float()


def test_first_token_is_that_of_two_separate_passes(engine, trials):
    for trial in trials:
        read = engine.read_image(trial.image)
        with_image = logits_of(engine, engine.prompt(trial.request, read), trial.image)
        without = logits_of(engine, engine.prompt(trial.request, None))
        expected = guided(with_image, without, 2.0).softmax(-1)[0]
        (answer,) = engine.generate(
            [trial.request], [trial.image], policy=PAI(alpha=0.0, guidance=2.0)
        )
        assert answer.p_yes == pytest.approx(float(expected[engine.yes_ids].sum()), abs=TOLERANCE)
        assert answer.p_no == pytest.approx(float(expected[engine.no_ids].sum()), abs=TOLERANCE)
        (plain,) = engine.generate([trial.request], [trial.image])
        assert abs(plain.p_yes - answer.p_yes) > 1e-4


def test_guided_batch_equals_one_at_a_time(engine, trials):
    policy = PAI(alpha=0.5, guidance=1.5)
    requests, images = [t.request for t in trials], [t.image for t in trials]
    together = engine.generate(requests, images, policy=policy)
    for request, image, one in zip(requests, images, together, strict=True):
        (alone,) = engine.generate([request], [image], policy=policy)
        assert one.text == alone.text
        assert one.p_yes == pytest.approx(alone.p_yes, abs=TOLERANCE)
        stream = engine.stream(request, image, policy=policy)
        assert "".join(stream).strip() == alone.text
        assert stream.answer.p_yes == alone.p_yes


def test_later_tokens_are_guided_with_the_answer_so_far(engine, trials):
    """Teacher-forced: each token is the guided arg-max of both whole texts."""
    trial = trials[0]
    read = engine.read_image(trial.image)
    prompts = [engine.prompt(trial.request, read), engine.prompt(trial.request, None)]
    ids = [list(prompt.input_ids) for prompt in prompts]
    pixels = read.tensors["pixel_values"]
    expected = []
    for _ in range(3):
        with torch.inference_mode():
            one = engine.model(input_ids=torch.tensor([ids[0]]), pixel_values=pixels).logits[:, -1]
            two = engine.model(input_ids=torch.tensor([ids[1]])).logits[:, -1]
        token = int(guided(one, two, 3.0).argmax())
        expected.append(token)
        if token == engine.model.generation_config.eos_token_id:
            break
        for row in ids:
            row.append(token)
    text = engine.tokenizer.decode(expected, skip_special_tokens=True).strip()
    (answer,) = engine.generate([trial.request], [trial.image], policy=PAI(alpha=0.0, guidance=3.0))
    assert answer.text == text


def test_every_step_sees_the_whole_text_without_the_image(engine, trials):
    """With factor 0 and equal scores only the second pass is left, in a batch of two lengths."""
    prompts = [list(engine.prompt(item.request, None).input_ids) for item in trials[1:]]
    inputs = engine.runner.inputs([tuple(ids) for ids in prompts], [None, None])
    guidance = Guidance(engine.model, inputs, Contrast(0.0, "image", defaults.PAI_CUTOFF))
    answers = [[5, 9, 7, 11], [6, 6, 8, 10]]
    size = engine.model.config.text_config.vocab_size
    for step in range(5):
        given = torch.tensor([answer[:step] for answer in answers], dtype=torch.long)
        with torch.inference_mode():
            found = guidance(given, torch.zeros(2, size))
            for row, (ids, answer) in enumerate(zip(prompts, answers, strict=True)):
                whole = engine.model(input_ids=torch.tensor([ids + answer[:step]])).logits[0, -1]
                assert torch.allclose(found[row], whole.log_softmax(-1), atol=1e-4)


def test_guidance_of_one_is_no_second_pass(engine, trials, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an image-free prompt was built")

    monkeypatch.setattr("mrrag_llamaindex.generation.decoding.guidance.Guidance", refuse)
    trial = trials[0]
    (answer,) = engine.generate([trial.request], [trial.image], policy=PAI(guidance=1.0))
    assert answer.steering.applied


def test_prompt_without_an_image_is_refused(engine):
    request = PromptRequest("Is there edema?", [PromptDocument("a", "No edema.", 1.0)])
    with pytest.raises(SteeringError, match="holds none"):
        engine.generate([request], [None], policy=PAI())
