"""SEKA, AdaSEKA and ITI by hand: the edit of a key, the routing, the shift of a head."""

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
from mrrag_llamaindex.steering.policies.ada_seka import AdaSEKA, KeyExperts
from mrrag_llamaindex.steering.policies.iti import ITI, HeadDirections
from mrrag_llamaindex.steering.policies.seka import SEKA, KeyProjections
from mrrag_llamaindex.steering.spans import PromptSpans

FIRST, SECOND = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))
SEKA_BY_HAND = SEKA(projections=KeyProjections(FIRST[None, None], SECOND[None, None]))
ADA_BY_HAND = AdaSEKA(
    experts=KeyExperts(torch.eye(2)[:, None, None, :, None], torch.ones(2, 1, 1, 1))
)
# Two documents and the question; the second document is highlighted.
SPANS = PromptSpans(((0, 1), (1, 2)), (2, 3), 3)
LAMBDAS = (0.4, 1.0)


class Layer(torch.nn.Module):
    """A layer whose keys and queries are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx, self.is_causal = 0, True
        self.k_proj, self.q_proj = torch.nn.Identity(), torch.nn.Identity()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        text = SimpleNamespace(num_key_value_heads=1, num_attention_heads=1)
        self.config = SimpleNamespace(get_text_config=lambda decoder: text)


KEYS = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]])


def edited(policy) -> list[list[float]]:
    model = Model()
    plan = SteeringPlan.build([SPANS], [LAMBDAS], policy, (0,), 3)
    weights = plan.column_weights
    look = lambda: model.layer.q_proj(torch.tensor([[[9.0, 9.0], [3.0, 4.0]]]))  # noqa: E731
    with plan.edit.around(model, plan.layers, weights, 0, look):
        found = model.layer.k_proj(KEYS)
    plan.finish(torch.zeros(1, 3, 1, 2), 0, plan.window(3, 3, torch.device("cpu")))
    plan.require_applied()
    assert torch.equal(model.layer.k_proj(KEYS), KEYS)
    return found[0].tolist()


def test_seka_by_hand():
    """(1, 2) + (.8 * (1, 0) + .2 * (0, 2)) / 2 = (1.4, 2.2), where lambda is high enough."""
    found = edited(SEKA_BY_HAND)
    assert found[1] == pytest.approx([1.4, 2.2])
    assert found[0] == found[2] == [1.0, 2.0]
    assert edited(replace(SEKA_BY_HAND, threshold=0.3))[0] == pytest.approx([1.4, 2.2])


def test_ada_seka_by_hand():
    """The last query leans (.6, .8); over the largest that is (.75, 1): 1 + .75, 2 + 2."""
    assert edited(ADA_BY_HAND)[1] == pytest.approx([1.75, 4.0])
    assert edited(replace(ADA_BY_HAND, gain=0.5))[1] == pytest.approx([1.375, 3.0])


def test_keys_that_were_not_edited_are_an_error():
    plan = SteeringPlan.build([SPANS], [LAMBDAS], SEKA_BY_HAND, (0,), 3)
    with pytest.raises(SteeringError, match="keys of layer 0 were not edited"):
        plan.finish(torch.zeros(1, 3, 1, 2), 0, plan.window(3, 3, torch.device("cpu")))


def test_a_layer_without_keys_of_its_own_is_named():
    model = Model()
    del model.layer.k_proj
    edit = SEKA_BY_HAND.edit([SPANS], [LAMBDAS])
    with (
        pytest.raises(SteeringError, match="layer 0 of Model has no projection of its own for key"),
        edit.around(model, (0,), torch.ones(1, 3), 0, list),
    ):
        pass


def test_heads_and_rows_that_cannot_be_told_apart_are_an_error():
    model = Model()
    with (
        SEKA_BY_HAND.edit([SPANS], [LAMBDAS]).around(model, (0,), torch.ones(1, 1), 0, list),
        pytest.raises(SteeringError, match="which is which"),
    ):
        model.layer.k_proj(torch.ones(1, 1, 1, 2))


@pytest.mark.parametrize("function", [ifa_attention_forward, ifa_eager_attention_forward])
def test_iti_by_hand(function):
    """Even attention over values 1, 2, 3; head 1 alone gets 2 * (.5), in the last row alone."""
    directions = HeadDirections(torch.tensor([[[9.0], [0.5]]]), torch.tensor([[0.6, 0.7]]))
    policy = ITI(directions=directions, alpha=2.0)
    assert policy.heads_shifted == 1
    plan = SteeringPlan.build([SPANS], [LAMBDAS], policy, policy.default_layers(1), 3)
    module = SimpleNamespace(layer_idx=0, num_key_value_groups=2, is_causal=True, training=False)

    def attend(rows: int, keys: int) -> torch.Tensor:
        seen = torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)[None, None]
        if function is ifa_eager_attention_forward:
            seen = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        values = torch.arange(1.0, keys + 1).view(1, 1, keys, 1)
        query, key = torch.zeros(1, 2, rows, 1), torch.zeros(1, 1, keys, 1)
        return function(module, query, key, values, seen, scaling=1.0, steering=plan)[0][0, ..., 0]

    torch.testing.assert_close(attend(3, 3), torch.tensor([[1.0, 1.0], [1.5, 1.5], [2.0, 3.0]]))
    torch.testing.assert_close(attend(1, 4), torch.tensor([[2.5, 3.5]]))  # a generated token
    assert (plan.report.rows, plan.report.steps) == ({0: 1}, {0: 1})


def test_iti_takes_the_heads_of_the_best_probes():
    accuracy = torch.tensor([[0.5, 0.9], [0.9, 0.7]])
    directions = HeadDirections(torch.ones(2, 2, 1), accuracy)
    assert directions.best(3) == [(0, 1), (1, 0), (1, 1)]
    policy = ITI(directions=directions, heads_shifted=2)
    assert policy.default_layers(2) == (0, 1)
    assert ITI(directions=directions).default_layers(2) == (0,)
    large = HeadDirections(torch.ones(32, 32, 1), torch.rand(32, 32))
    assert ITI(directions=large).heads_shifted == 48
    tried = ITI(directions=large).grid([(1,)])
    assert {(one.alpha, one.heads_shifted) for one in tried} == {
        (alpha, count) for alpha in (1.0, 5.0, 15.0, 30.0) for count in (48, 96, 192)
    }


@pytest.mark.parametrize("policy", [SEKA_BY_HAND, ADA_BY_HAND], ids=repr)
def test_key_policies_say_when_they_are_idle(policy):
    assert policy.columns(SPANS, LAMBDAS) == [((1, 2), 1.0)]
    assert policy.columns(SPANS, (0.0, 0.0)) == []
    assert replace(policy, gain=0.0).columns(SPANS, LAMBDAS) == []
    assert "0.5 or more" in policy.idle


def test_learned_policies_are_values():
    again = KeyProjections(FIRST[None, None].clone(), SECOND[None, None])
    other = KeyProjections(SECOND[None, None], SECOND[None, None])
    assert {SEKA_BY_HAND: 1}[SEKA(projections=again)] == 1
    assert SEKA(projections=other) != SEKA_BY_HAND
    assert again.digest in repr(SEKA_BY_HAND)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SEKA, {}),
        (AdaSEKA, {}),
        (ITI, {}),
        (SEKA, {"projections": SEKA_BY_HAND.projections, "gain": -1.0}),
        (SEKA, {"projections": SEKA_BY_HAND.projections, "negative_gain": float("nan")}),
        (AdaSEKA, {"experts": ADA_BY_HAND.experts, "threshold": 0.0}),
        (ITI, {"directions": HeadDirections(torch.ones(1, 1, 1), torch.ones(1, 1)), "alpha": -1}),
        (
            ITI,
            {
                "directions": HeadDirections(torch.ones(1, 1, 1), torch.ones(1, 1)),
                "heads_shifted": 2,
            },
        ),
        (
            ITI,
            {"directions": HeadDirections(torch.ones(1, 1, 1), torch.ones(1, 1)), "layers": (0,)},
        ),
    ],
)
def test_fields_are_checked(kind, wrong):
    with pytest.raises(ValueError, match="must be"):
        kind(**wrong)


def test_shapes_and_values_of_what_was_learned_are_checked():
    with pytest.raises(ValueError, match="layers, key heads, dim, dim"):
        KeyProjections(FIRST, SECOND)
    with pytest.raises(ValueError, match="without dim"):
        KeyExperts(torch.ones(1, 1, 1, 2, 1), torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="layers, heads, dim"):
        HeadDirections(torch.ones(1, 2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match="relevant holds NaN"):
        KeyProjections(FIRST[None, None] * torch.nan, SECOND[None, None])
