"""What travels to a serving engine says the same there, and nothing else gets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.wire.request_plan import (
    ARGUMENT,
    RequestPlan,
    from_extra_args,
    to_extra_args,
)
from mrrag_llamaindex.steering.wire.request_report import RequestReport

SPANS = PromptSpans(documents=((3, 6), (6, 9)), question=(10, 12), length=15, image=(1, 3))
LAMBDAS = (0.25, 1.0)
POLICIES = [
    IFA(),
    IFA(strength=2.0, question_rows="question"),
    IFA(image=0.5),
    IFA(every_step=True),
    Uniform(),
    HardMask(threshold=0.3),
    HardMask(threshold=0.3, every_step=True),
    PASTA(alpha=0.1),
    PASTA(heads={1: (0, 2), 2: (3,)}),
    IFA(by_layer={1: 0.5, 2: 3.0}, heads={1: (0, 2), 2: (3,)}),
    PAI(guidance=1.0),
]


def plan_of(policy: Any) -> RequestPlan:
    return RequestPlan.of(SPANS, LAMBDAS, policy, policy.layers or (1, 2))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_plan_steers_there_as_it_would_have_here(policy):
    there = from_extra_args(json.loads(json.dumps(to_extra_args(plan_of(policy)))))
    assert there is not None
    steered = there.build()
    here = SteeringPlan.build([SPANS], [LAMBDAS], policy, (1, 2), SPANS.length)
    assert torch.equal(steered.column_weights, here.column_weights)
    assert torch.equal(steered.steered_rows, here.steered_rows)
    assert (steered.layers, steered.heads) == (here.layers, here.heads)
    assert steered.every_step == here.every_step
    logits = torch.linspace(-3, 3, SPANS.length)
    weights = here.column_weights[0]
    for layer in here.layers:
        steer = here.formula(layer).steer
        assert torch.equal(steered.formula(layer).steer(logits, weights), steer(logits, weights))
    assert there.rows == policy.rows(SPANS)


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(plan_of(IFA()).dump()) | fields)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (changed(version=2), "version"),
        (changed(columns=[1]), "columns"),
        (changed(policy="mine"), "policy"),
        (changed(options={"layers": [1]}), "options"),
        (changed(options={"strength": float("nan")}), "option"),
        (changed(options={"strength": "much"}), "option"),
        (changed(options={"image": 2.0}), "option"),
        (changed(layers=[]), "layers"),
        (changed(layers=[-1]), "layers"),
        (changed(options={"by_layer": {"3": 1.0}}), "layers"),
        (changed(lambdas=[0.5]), "lambdas"),
        (changed(lambdas=[0.5, 1.5]), "lambda"),
        (changed(lambdas=[0.0, 0.0]), "nothing would be steered"),
        (changed(question=[2, 4]), "question"),
        (changed(length=2**40), "length"),
        ("[]", "RequestPlan"),
        ("{", "JSON"),
        (7, "string"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(text, names):
    with pytest.raises(SteeringError, match=names):
        from_extra_args({ARGUMENT: text})


def test_other_arguments_pass_and_those_that_look_like_ours_do_not():
    assert from_extra_args(None) is None
    assert from_extra_args({"kv_transfer_params": {}}) is None
    with pytest.raises(SteeringError, match="mrrag_steering"):
        from_extra_args({"mrrag_plan": "{}"})


def test_what_is_more_than_attention_is_refused():
    with pytest.raises(SteeringError, match="guidance"):
        plan_of(PAI(guidance=1.5))
    with pytest.raises(SteeringError, match="leave the plan out"):
        plan_of(IFA(strength=0.0))


def test_equal_plans_have_one_digest_and_others_have_another():
    same = RequestPlan.read(plan_of(IFA(strength=2.0)).dump())
    assert same.digest == plan_of(IFA(strength=2.0)).digest
    assert len({plan_of(policy).digest for policy in POLICIES[:-1]}) == len(POLICIES) - 1


def test_a_report_must_be_that_of_the_plan():
    plan = plan_of(IFA())
    wanted = plan.rows[1] - plan.rows[0]
    whole = RequestReport(rows={1: wanted, 2: wanted})
    assert RequestReport.of(whole.dump(), plan) == whole
    RequestReport.of(RequestReport(rows={1: 1, 2: 1}, cached=wanted - 1).dump(), plan)
    for short in ({1: wanted}, {1: wanted, 2: wanted - 1}, {1: wanted + 1, 2: wanted}):
        with pytest.raises(SteeringError, match="did not steer"):
            RequestReport.of(RequestReport(rows=short).dump(), plan)
    stepwise = plan_of(IFA(every_step=True))
    RequestReport(rows=whole.rows, steps={1: 4, 2: 4}).require(stepwise)
    for steps in ({}, {1: 4}, {1: 4, 2: 3}):
        with pytest.raises(SteeringError, match="the answer's tokens"):
            RequestReport(rows=whole.rows, steps=steps).require(stepwise)
    with pytest.raises(SteeringError, match="plugin"):
        RequestReport.of(None, plan)
    with pytest.raises(SteeringError, match="the prompt has"):
        RequestReport.of("the prompt has 3 tokens", plan)
