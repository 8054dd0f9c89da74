"""vLLM gives what the eager definition gives: every family, policies mixed in one batch."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see tools/vllm/parity.sh")

from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform
from mrrag_llamaindex.steering.wire.request_report import RequestReport
from tests.serving.vllm.asking import Asked, Definition, Expected, films
from tests.serving.vllm.engines import SMALL, engine, parameters

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]

FAMILIES = ["llava", "llava_next", "qwen2_5_vl", "gemma3", "mistral", "llama"]
MIXED = [
    None,
    IFA(layers=(1, 2)),
    Uniform(strength=2.0, layers=(0, 3), question_rows="question"),
    HardMask(threshold=0.6),
    IFA(strength=0.5, every_step=True),
    PASTA(alpha=0.05, heads={1: (0, 3), 3: (1,)}),
    IFA(strength=0.5, layers=(3,)),
]
TOLERANCE = 1e-3
OPTIONS = {"gemma3": {"limit_mm_per_prompt": {"image": 0}}}
"""Its images are read in both directions, and vLLM's CPU attention looks back only: text alone."""


def same(given, expected: Expected) -> None:
    """Tokens equal, and every log-probability that vLLM tells within the tolerance."""
    assert list(given.token_ids) == expected.tokens
    for told, known in zip(given.logprobs, expected.logprobs, strict=True):
        for token, logprob in told.items():
            assert logprob.logprob == pytest.approx(float(known[token]), abs=TOLERANCE)


def run(running, asked: list[Asked]) -> list:
    """Ask all at once, in one batch, and check every prompt and report."""
    outputs = running.generate(
        [dict(one.vllm) for one in asked], [parameters(one.plan) for one in asked], use_tqdm=False
    )
    for one, output in zip(asked, outputs, strict=True):
        assert tuple(output.prompt_token_ids) == one.prompt.input_ids
        stop = output.outputs[0].stop_reason
        assert (stop is None) if one.plan is None else RequestReport.of(stop, one.plan)
    return outputs


def mixed(definition: Definition, family: str, question: str) -> list[Asked]:
    images = films(family, len(MIXED) + 1)
    policies = [*MIXED, PAI(guidance=1.0) if images[0] else None]
    if family == "gemma3":  # the definition does not steer decode steps over a sliding window
        policies = [None if one is not None and one.every_step else one for one in policies]
    return [
        definition.ask(question, policy, image=image)
        for policy, image in zip(policies, images, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_equals_the_definition(family, checkpoint, definition):
    defined = definition(family)
    asked = mixed(defined, family, "Is there a nodule?")
    again = [
        defined.ask("Is the heart of normal size?", one.policy, image=one.image) for one in asked
    ]
    assert min(len(one.prompt.input_ids) for one in asked) > SMALL["max_num_batched_tokens"]
    steers = [one.policy is not None and one.plan is not None for one in asked]
    assert sum(steers) >= 4
    with engine(checkpoint(family), **OPTIONS.get(family, {})) as running:
        for questions in (asked, again, asked):
            expected = [defined.answer(one) for one in questions]
            outputs = run(running, questions)
            for output, wanted in zip(outputs, expected, strict=True):
                same(output.outputs[0], wanted)
            if questions is not asked:
                prefix = [one.prompt.document_spans[-1][1] // 32 * 32 for one in questions]
                cached = [output.num_cached_tokens for output in outputs]
                assert all(map(int.__ge__, cached, prefix)), (cached, prefix)


def test_steering_changes_what_is_answered(definition):
    """So that the comparison above is one."""
    defined = definition("mistral")
    plain = defined.answer(defined.ask("Is there a nodule?", None)).logprobs[0]
    for policy in MIXED[1:]:
        steered = defined.answer(defined.ask("Is there a nodule?", policy)).logprobs[0]
        assert float((steered - plain).abs().max()) > 10 * TOLERANCE
