"""MAD-RAG by hand on every backend, in padded batches, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import (
    ifa_attention_forward,
    ifa_eager_attention_forward,
)
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.mad_rag import MADRAG
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan

# Image 0..1, first question 1..2, document 2..3, second question 3..4, one closing token.
SPANS = PromptSpans(((2, 3),), (3, 4), 5, image=(0, 1), first_question=(1, 2))
MODULE = SimpleNamespace(layer_idx=0, num_key_value_groups=1, is_causal=True, training=False)


def call(function, plan, length=5, batch=1):
    """Attention that is even over what a row sees; its output is the attention itself."""
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None].expand(batch, -1, -1, -1)
    for row, pad in enumerate(plan.padding):
        mask = mask.clone()
        mask[row, :, :, :pad] = False
        mask[row, :, torch.arange(pad), torch.arange(pad)] = True
    if function is ifa_eager_attention_forward:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    eye = torch.eye(length).expand(batch, 1, -1, -1)
    zeros = torch.zeros(batch, 1, length, length)
    return function(MODULE, zeros, eye, eye, mask, scaling=1.0, steering=plan)[0][:, :, 0]


FUNCTIONS = [ifa_attention_forward, ifa_eager_attention_forward]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_by_hand(function):
    """.75 of a quarter each for 0..4, and .25 of a half each for 0..2; other rows stay."""
    plan = SteeringPlan.build([SPANS], [(1.0,)], MADRAG(alpha=0.25), (0,), 5)
    output = call(function, plan)[0]
    torch.testing.assert_close(output[3], torch.tensor([0.3125, 0.3125, 0.1875, 0.1875, 0.0]))
    for row in (0, 1, 2, 4):
        assert output[row].tolist() == pytest.approx([1 / (row + 1)] * (row + 1) + [0] * (4 - row))
    assert plan.report.rows == {0: 1}
    plan.require_applied()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_padding_moves_both_questions(function):
    short = PromptSpans(((1, 2),), (2, 3), 3, first_question=(0, 1))
    plan = SteeringPlan.build([short, SPANS], [(0.0,), (0.0,)], MADRAG(alpha=0.5), (0,), 5)
    output = call(function, plan, batch=2)
    torch.testing.assert_close(output[0, 4], torch.tensor([0, 0, 2 / 3, 1 / 6, 1 / 6]))
    torch.testing.assert_close(output[1, 3], torch.tensor([0.375, 0.375, 0.125, 0.125, 0.0]))


def test_every_backend_is_the_eager_definition(load, toy):
    spans = [
        replace(
            prompt.spans,
            documents=prompt.spans.documents[1:],
            first_question=(start, start + prompt.question_length),
        )
        for prompt in toy.prompts
        for start, _ in prompt.spans.documents[:1]
    ]
    lambdas = [(0.0,) * len(one.documents) for one in spans]
    inputs = toy.batch(toy.prompts)
    length = inputs["input_ids"].shape[1]
    real = inputs["attention_mask"].bool()
    found = {}
    for backend in ("rows", "eager", "flex"):
        plan = SteeringPlan.build(spans, lambdas, MADRAG(), toy.critical, length)
        found[backend] = toy.logits(load(backend), inputs, plan)[real]
        plan.require_applied()
    assert (found["eager"] - toy.logits(load("eager"), inputs)[real]).abs().max() > 1e-3
    for backend in ("rows", "flex"):
        torch.testing.assert_close(found[backend], found["eager"], atol=1e-5, rtol=0)


def test_it_is_off_without_a_share_and_without_documents():
    assert MADRAG(alpha=0.0).columns(SPANS, (1.0,)) == []
    plain = PromptSpans((), (3, 4), 5)
    assert MADRAG().columns(plain, ()) == []
    assert MADRAG().columns(SPANS, (0.0,)) == [((1, 2), 0.5)]


def test_no_prefix_is_shared_with_it():
    with pytest.raises(SteeringError, match="MADRAG changes what stands before the question"):
        SteeringPlan.build([SPANS], [(1.0,)], MADRAG(), (0,), 5, shared_prefix=2)


def test_no_serving_engine_is_sent_it():
    with pytest.raises(SteeringError, match="MADRAG is none of"):
        RequestPlan.of(SPANS, (1.0,), MADRAG(), (0,))


def test_the_first_question_must_be_in_the_call():
    plan = SteeringPlan.build([SPANS], [(1.0,)], MADRAG(), (0,), 5)
    window = plan.window(2, 5, torch.device("cpu"))
    with pytest.raises(SteeringError, match="in one call"):
        plan.finish(torch.zeros(1, 2, 1, 5), 0, window)


def test_questions_of_unequal_length_are_refused():
    uneven = PromptSpans(((3, 4),), (4, 5), 5, first_question=(1, 3))
    with pytest.raises(SteeringError, match="row 0: the question has 2 tokens before"):
        SteeringPlan.build([uneven], [(1.0,)], MADRAG(), (0,), 5)


@pytest.mark.parametrize("first", [(2, 2), (3, 5), (-1, 1)])
def test_a_first_question_stands_before_the_question(first):
    with pytest.raises(SteeringError, match="first question"):
        PromptSpans((), (4, 5), 6, first_question=first)
    with pytest.raises(SteeringError, match="overlaps the document or the first question"):
        PromptSpans(((1, 3),), (4, 5), 6, first_question=(0, 2))


@pytest.mark.parametrize(
    "wrong", [{"alpha": -0.1}, {"alpha": 1.1}, {"alpha": float("nan")}, {"question_rows": "to_end"}]
)
def test_fields_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MADRAG(**wrong)
