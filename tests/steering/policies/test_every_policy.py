"""What every policy must do, whatever it is: one row of `POLICIES` is one more case here."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.steering.spans import PromptSpans

# What switches each of them off; a policy that cannot be is left without an entry.
OFF = {
    "ifa": {"strength": 0.0},
    "uniform": {"strength": 0.0},
    "hard-mask": {"mode": "drop"},
    "pasta": {"alpha": 1.0},
    "pai": {"alpha": 0.0},
}
# Image 1..3, documents 3..5, 6..8 and 8..9, question 10..12, two tokens behind it.
SPANS = PromptSpans(((3, 5), (6, 8), (8, 9)), (10, 12), 14, image=(1, 3))
LAMBDAS = (0.2, 1.0, 0.0)
DEPTH = 6
SETS = [(1,), (0, 1, 2, 3, 4, 5), (4, 5)]


@pytest.fixture(params=POLICIES)
def name(request) -> str:
    return request.param


@pytest.fixture
def policy(name):
    return POLICIES[name]()


def plan_of(toy, policy, prompts):
    return SteeringPlan.build(
        [replace(prompt.spans, image=(1, 1 + toy.image_tokens)) for prompt in prompts],
        toy.lambdas[: len(prompts)],
        policy,
        toy.critical,
        max(len(prompt.ids) for prompt in prompts),
    )


def test_it_is_a_value(policy):
    assert {policy: 1}[type(policy)()] == 1
    assert policy != replace(policy, layers=(0,))
    with pytest.raises(FrozenInstanceError):
        policy.layers = (1,)


def test_rows_of_generated_tokens_are_an_option_that_changes_nothing_in_the_prompt(toy, policy):
    other = replace(policy, every_step=not policy.every_step)
    assert other != policy
    one, two = (plan_of(toy, item, toy.prompts) for item in (policy, other))
    assert {one.every_step, two.every_step} == {True, False}
    assert torch.equal(one.column_weights, two.column_weights)
    assert torch.equal(one.steered_rows, two.steered_rows)
    with pytest.raises(ValueError, match="every_step must be True or False, got 1"):
        replace(policy, every_step=1)


@pytest.mark.parametrize("layers", [(), (1, 1), (-1,), (True,), (0.5,)])
def test_layers_are_checked(policy, layers):
    with pytest.raises(ValueError, match="layers"):
        replace(policy, layers=layers)
    assert replace(policy, layers=[2, 1]).layers == (2, 1)


def test_a_column_without_weight_keeps_its_logits_to_the_last_bit(policy):
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.steer(logits, torch.zeros(5)), logits)


def test_it_steers_rows_from_the_question_on_and_columns_of_the_prompt(policy):
    start, stop = policy.rows(SPANS)
    assert SPANS.question[0] <= start < stop <= SPANS.length
    columns = policy.columns(SPANS, LAMBDAS)
    assert columns
    for (first, last), weight in columns:
        assert 0 <= first < last <= SPANS.length
        assert math.isfinite(weight)
        assert weight != 0
    taken = [place for (first, last), _ in columns for place in range(first, last)]
    assert len(taken) == len(set(taken))


def test_hooks_tell_the_truth(policy):
    others = [(1.0, 0.0, 0.6), (0.0, 0.0, 0.0)]
    found = {str(policy.columns(SPANS, lambdas)) for lambdas in (LAMBDAS, *others)}
    assert (len(found) > 1) == policy.reads_lambdas
    blind = replace(SPANS, image=None)
    assert bool(policy.columns(blind, LAMBDAS)) != policy.needs_image
    assert policy.idle
    own = policy.default_layers(DEPTH)
    assert own is None or set(own) <= set(range(DEPTH))
    assert not policy.is_off
    assert policy.guidance >= 1


def test_in_attention_alone_it_leaves_out_nothing_and_guides_nothing(policy):
    alone = policy.attention_only()
    assert alone == alone.attention_only()
    assert alone.guidance == 1
    assert alone.leaves_out(LAMBDAS) == [False] * 3
    assert alone.columns(SPANS, LAMBDAS) == policy.columns(SPANS, LAMBDAS)


def test_what_is_tuned_has_its_default_or_published_value_in_the_middle(policy):
    low, middle, high = policy.three_values
    assert low < middle < high
    assert getattr(policy, policy.tuned) == middle
    tuned = policy.at(high, (1, 2))
    assert (getattr(tuned, policy.tuned), tuned.layers) == (high, (1, 2))
    assert replace(tuned, **{policy.tuned: middle}, layers=None) == policy


def test_every_grid_has_twelve_settings_or_none(policy):
    grid = policy.grid(SETS)
    assert len(set(grid)) == (12 if policy.four_values else 1)
    assert policy.four_values or grid == [policy]


def test_off_is_the_stock_model_to_the_last_bit(load, stock_of, toy, name):
    policy = replace(POLICIES[name](), **OFF[name])
    assert policy.is_off
    plan = plan_of(toy, policy, toy.prompts)
    inputs = toy.batch(toy.prompts)
    for backend in ("rows", "eager"):
        stock = toy.logits(stock_of(backend), inputs)
        assert torch.equal(toy.logits(load(backend), inputs, plan), stock)
    assert plan.report.rows == {}


def test_rows_backend_is_the_eager_definition_and_moves_the_model(load, toy, policy):
    policy = policy.at(policy.three_values[2], toy.critical)
    inputs = toy.batch(toy.prompts)
    real = inputs["attention_mask"].bool()
    logits = {}
    for backend in ("rows", "eager"):
        plan = plan_of(toy, policy, toy.prompts)
        logits[backend] = toy.logits(load(backend), inputs, plan)
        plan.require_applied()
    # Sums in another order, in float32: 1.02e-5 was seen, on a CPU with AVX2 only.
    torch.testing.assert_close(logits["rows"][real], logits["eager"][real], atol=2e-5, rtol=0)
    assert (logits["rows"] - toy.logits(load("rows"), inputs)).abs().max() > 1e-4
