"""The two attention functions on bare tensors."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.mistral.modeling_mistral import eager_attention_forward

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import (
    ifa_attention_forward,
    ifa_eager_attention_forward,
)
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans

FUNCTIONS = [ifa_attention_forward, ifa_eager_attention_forward]


def layer(groups: int = 1, index: int = 0) -> Any:
    return SimpleNamespace(
        layer_idx=index, num_key_value_groups=groups, is_causal=True, training=False
    )


def hand_plan(lambdas: list[float], rows: list[int]) -> SteeringPlan:
    question = torch.zeros(1, len(lambdas), dtype=torch.bool)
    question[0, rows] = True
    return SteeringPlan(torch.tensor([lambdas]), question, frozenset({0}))


def causal(size: int, kind: str, dtype: torch.dtype = torch.float32) -> torch.Tensor | None:
    allowed = torch.ones(size, size, dtype=torch.bool).tril()[None, None]
    if kind == "none":
        return None
    if kind == "bool":
        return allowed
    lowest = -torch.inf if kind == "inf" else torch.finfo(dtype).min
    return torch.zeros(1, 1, size, size, dtype=dtype).masked_fill(~allowed, lowest)


def attend(function, logits: torch.Tensor, mask: torch.Tensor | None, plan: SteeringPlan):
    """Unit keys and values: the logits are the queries, the output is the attention itself."""
    eye = torch.eye(logits.shape[-1])[None, None]
    output, _ = function(layer(), logits[None, None], eye, eye, mask, scaling=1.0, steering=plan)
    return output[0, :, 0]


LOGITS = torch.tensor([[1.0, 9.0, 9.0], [-1.0, 2.0, 9.0], [-2.0, 1.0, 0.5]])


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        *itertools.product(FUNCTIONS, ["bool", "min", "inf"]),
        (ifa_attention_forward, "none"),  # the eager function always gets a mask
    ],
)
def test_three_by_three_by_hand(function, kind):
    attention = attend(function, LOGITS, causal(3, kind), hand_plan([1.0, 0.5, 0.0], [2]))
    # Row 2: -2 + 1*2 = 0, 1 + .5*1 = 1.5, .5; rows 0 and 1 are not question rows.
    e = [math.exp(0.0), math.exp(1.5), math.exp(0.5)]
    second = [math.exp(-1.0), math.exp(2.0)]
    expected = torch.tensor(
        [
            [1.0, 0.0, 0.0],
            [second[0] / sum(second), second[1] / sum(second), 0.0],
            [x / sum(e) for x in e],
        ]
    )
    torch.testing.assert_close(attention, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", ["bool", "min", "inf"])
def test_masked_cell_stays_masked_at_lambda_one(function, kind):
    # Masking first would give min + 1*|min| = 0 (causality broken) or -inf + inf = NaN.
    attention = attend(function, LOGITS, causal(3, kind), hand_plan([1.0, 1.0, 1.0], [0, 1]))
    assert attention[0].tolist() == [1.0, 0.0, 0.0]
    assert attention[1, 2] == 0.0
    # Row 1: -1 -> 0, 2 -> 4
    assert attention[1, 0].item() == pytest.approx(1 / (1 + math.exp(4)))


def random_case(groups: int, pads: tuple[int, ...], length: int = 24, dim: int = 16):
    generator = torch.Generator().manual_seed(7)
    heads = 2 * groups
    query = 3 * torch.randn(len(pads), heads, length, dim, generator=generator)
    key = torch.randn(len(pads), 2, length, dim, generator=generator)
    value = torch.randn(len(pads), 2, length, dim, generator=generator)
    prompts, lambdas = [], []
    for row, pad in enumerate(pads):
        size = length - pad
        prompts.append(PromptSpans(((1, 5), (5, 9)), (size - 4 - row, size - 1), size))
        lambdas.append((1.0, 0.3 * row))
    plan = SteeringPlan.build(prompts, lambdas, IFA(), (0,), length)
    allowed = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(pads), 1, 1, 1)
    for row, pad in enumerate(pads):
        allowed[row, :, :, :pad] = False
    return query, key, value, allowed, plan


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("pads", [(0,), (0, 0), (3, 0, 7)])
@pytest.mark.parametrize("heads_in_mask", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_rows_backend_equals_the_definition(groups, pads, heads_in_mask, kind):
    query, key, value, allowed, plan = random_case(groups, pads)
    mask = allowed.expand(-1, query.shape[1], -1, -1) if heads_in_mask else allowed
    floats = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    arguments = (layer(groups), query, key, value)
    rows, _ = ifa_attention_forward(
        *arguments, mask if kind == "bool" else floats, scaling=0.25, steering=plan
    )
    eager, weights = ifa_eager_attention_forward(*arguments, floats, scaling=0.25, steering=plan)
    stock, _ = sdpa_attention_forward(*arguments, floats, scaling=0.25)
    real = allowed.any(-1)[:, 0]  # padding rows attend to nothing and mean nothing
    torch.testing.assert_close(rows[real], eager[real], atol=1e-5, rtol=0)
    assert (rows - stock)[plan.steered_rows].abs().max() > 0.05
    untouched = real & ~plan.steered_rows
    assert torch.equal(rows[untouched], stock[untouched])
    assert weights.shape == (len(pads), query.shape[1], 24, 24)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding_of_the_definition(dtype):
    query, key, value, allowed, plan = random_case(4, (2, 0))
    query, key, value = (20 * query).to(dtype), key.to(dtype), value.to(dtype)
    lowest = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    rows, _ = ifa_attention_forward(layer(4), query, key, value, lowest, steering=plan)
    exact, _ = ifa_eager_attention_forward(
        layer(4), query.double(), key.double(), value.double(), lowest.double(), steering=plan
    )
    assert rows.dtype == dtype
    difference = (rows.double() - exact)[plan.steered_rows].abs().max()
    assert difference < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("function", FUNCTIONS)
def test_without_steering_the_stock_function_answers_bit_for_bit(function):
    query, key, value, allowed, plan = random_case(4, (3, 0))
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    stock = sdpa_attention_forward if function is ifa_attention_forward else eager_attention_forward
    arguments = (query, key, value, mask)
    expected, _ = stock(layer(4), *arguments, scaling=0.25)
    inactive = SteeringPlan(
        torch.zeros_like(plan.column_weights), plan.steered_rows, frozenset({0})
    )
    for module, steering in [(layer(4), None), (layer(4, index=5), plan), (layer(4), inactive)]:
        output, _ = function(module, *arguments, scaling=0.25, steering=steering)
        assert torch.equal(output, expected)
    assert plan.report.applications == {}


def test_lambda_beyond_the_plan_is_zero_and_decode_is_stock():
    query, key, value, _, plan = random_case(4, (0,))
    longer = torch.cat([key, key[:, :, :3]], dim=2), torch.cat([value, value[:, :, :3]], dim=2)
    step = query[:, :, :1]
    output, _ = ifa_attention_forward(layer(4), step, *longer, None, steering=plan)
    expected, _ = sdpa_attention_forward(layer(4), step, *longer, None)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_missing_mask_is_refused_where_it_would_be_wrong(function):
    query, key, value, _, padded = random_case(1, (3, 0))
    with pytest.raises(SteeringError, match="no attention mask"):
        function(layer(), query, key, value, None, steering=padded)
    query, key, value, _, plan = random_case(1, (0,))
    with pytest.raises(SteeringError, match="no attention mask"):
        function(layer(), query[:, :, -8:], key, value, None, steering=plan)


def test_batch_that_grew_behind_the_plan_is_refused():
    query, key, value, allowed, plan = random_case(1, (0,))
    grown = [tensor.repeat(2, 1, 1, 1) for tensor in (query, key, value, allowed)]
    with pytest.raises(SteeringError, match="the plan has 1 rows, the batch 2"):
        ifa_attention_forward(layer(), *grown, steering=plan)


def test_attention_with_terms_that_the_rows_would_not_see_is_refused():
    query, key, value, allowed, plan = random_case(1, (0,))
    with pytest.raises(SteeringError, match="position_bias"):
        ifa_attention_forward(
            layer(), query, key, value, allowed, steering=plan, position_bias=torch.zeros(1)
        )


def test_another_policy_rides_on_the_same_plan():
    class Uniform:
        """Forget the scores: every steered column gets the same logit."""

        def steer(self, logits, weights):
            return torch.where(weights > 0, torch.zeros_like(logits), logits)

    plan = hand_plan([1.0, 0.5, 0.0], [2])
    other = SteeringPlan(plan.column_weights, plan.steered_rows, plan.layers, policy=Uniform())
    for function in FUNCTIONS:
        attention = attend(function, LOGITS, causal(3, "bool"), other)
        assert attention[2, 0] == attention[2, 1] == pytest.approx(1 / (2 + math.exp(0.5)))
