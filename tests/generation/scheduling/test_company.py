"""An answer does not depend on who else asks: every row equals the call alone."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform
from tests.tiny.families import FAMILIES, write

REPORTS = (
    "No pleural effusion.",
    "The heart is of normal size. There is a nodule in the left lung.",
    "Is there a nodule? Yes",
)
QUESTIONS = ("Is there a nodule?", "Is there a normal heart, and a pleural effusion?")
LAYERS = (1, 2)
HEADS = {1: (0, 2), 2: (1,)}
POLICIES = (
    None,
    IFA(layers=LAYERS),
    IFA(2.0, layers=(1,)),
    Uniform(layers=LAYERS),
    PASTA(heads=HEADS),
    HardMask(layers=LAYERS),
)


def film(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def request(number: int) -> PromptRequest:
    documents = [
        PromptDocument(f"d{i}", text, score)
        for i, (text, score) in enumerate(zip(REPORTS, (1.0, 0.0, 0.5), strict=True))
    ]
    return PromptRequest(QUESTIONS[number % 2], documents[: 1 + number % 3])


def streamed(engine, asked, image, **options):
    stream = engine.stream(asked, image, **options)
    text = "".join(stream)
    assert text.strip() == stream.answer.text
    return stream.answer


def called(engine, asked, image, **options):
    return engine.generate([asked], [image], **options)[0]


def require_equal_answers(engine, calls, busy, wait_for):
    """Ask all of ``calls`` at once, and compare each with the same call alone."""
    alone = [called(engine, *arguments, **options) for _, arguments, options in calls]
    before = engine.scheduler.stats.rows.count
    with ThreadPoolExecutor(len(calls)) as pool:
        with busy(engine):
            futures = [
                pool.submit(how, engine, *arguments, **options) for how, arguments, options in calls
            ]
            wait_for(lambda: engine.scheduler.stats.waiting >= len(calls) - engine.batch_size)
            wait_for(
                lambda: (
                    engine.scheduler.stats.waiting + engine.scheduler.stats.running == len(calls)
                )
            )
        together = [future.result() for future in futures]
    assert engine.scheduler.stats.rows.count - before < len(calls)
    for one, two in zip(together, alone, strict=True):
        assert one.p_yes == pytest.approx(two.p_yes, abs=1e-5)
        assert one.p_no == pytest.approx(two.p_no, abs=1e-5)
        assert replace(one, p_yes=0, p_no=0, seconds=0) == replace(two, p_yes=0, p_no=0, seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_equals_the_call_alone_in_every_family(family, tmp_path, busy, wait_for):
    engine = LlavaEngine(
        load_model(str(write(family, tmp_path)), device="cpu"), max_new_tokens=5, batch_size=16
    )
    images = [film(0, (64, 40)), film(1, (34, 90)), film(0, (64, 40)), None]
    policies = POLICIES
    if family == "gemma3":  # it forgets the columns that such a policy steers to in every step
        policies = [policy for policy in POLICIES if policy is None or not policy.every_step]
    calls = []
    for number in range(24):
        options = {
            "policy": policies[number % len(policies)],
            "max_new_tokens": (2, 5, 3)[number % 3],
        }
        how = streamed if number % 5 == 0 else called
        calls.append((how, (request(number), images[(number // 2) % 4]), options))
    require_equal_answers(engine, calls, busy, wait_for)


@pytest.mark.slow
def test_a_row_equals_the_call_alone_on_the_phantom(trials, busy, wait_for):
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=6)
    engine.model.generation_config.eos_token_id = None  # the shipped one answers in one word
    policies = (IFA(), None, IFA(0.5, every_step=True), PAI(), IFA(0.5, every_step=True))
    calls = []
    for number, trial in enumerate(trials):
        options = {"policy": policies[number % 5], "max_new_tokens": 1 + number % 6}
        how = streamed if number % 4 == 1 else called
        calls.append((how, (trial.request, trial.image), options))
    require_equal_answers(engine, calls, busy, wait_for)


def test_questions_on_one_image_share_what_stands_before_them(trials, own, busy, wait_for):
    trial = trials[0]
    asked = [replace(trial.request, question=question) for question in QUESTIONS * 3]
    lengths = []
    run = own.runner.run

    @functools.wraps(run)
    def noted(call):
        lengths.append((len(call.prompts), call.shared))
        return run(call)

    own.runner.run = noted
    calls = [(called, (one, trial.image), {"policy": IFA()}) for one in asked]
    require_equal_answers(own, calls, busy, wait_for)
    rows, shared = max(lengths)
    assert rows >= 2
    assert shared > 60
