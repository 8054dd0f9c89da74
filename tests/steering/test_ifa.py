from __future__ import annotations

import math

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.ifa import IFA, min_max_lambdas


def test_top_document_gets_lambda_one_and_worst_gets_zero():
    # (.5 - .2) / (.8 - .2) = .5
    assert min_max_lambdas([0.5, 0.8, 0.2]) == pytest.approx((0.5, 1.0, 0.0))


def test_negative_scores_are_normalised_like_others():
    # (-1 - -3) / (1 - -3) = .5
    assert min_max_lambdas([-3.0, 1.0, -1.0]) == pytest.approx((0.0, 1.0, 0.5))


@pytest.mark.parametrize("scores", [[], [0.4], [0.4, 0.4, 0.4], [None], [None, 0.4], [None, None]])
def test_nothing_to_prefer_gives_lambda_zero(scores):
    assert min_max_lambdas(scores) == (0.0,) * len(scores)


def test_document_without_score_stands_outside_the_range():
    assert min_max_lambdas([2.0, None, 4.0]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_score_that_is_no_number_is_refused_by_position(bad):
    with pytest.raises(SteeringError, match="document 1"):
        min_max_lambdas([0.1, bad, 0.3])


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": -0.1},
        {"strength": math.nan},
        {"strength": math.inf},
        {"layers": ()},
        {"layers": (-1,)},
        {"layers": (1, 1)},
        {"layers": (1.0,)},
        {"layers": (True,)},
        {"question_rows": "all"},
        {"image": -0.1},
        {"image": 1.5},
        {"image": math.nan},
    ],
)
def test_ifa_refuses_fields_out_of_range(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        IFA(**fields)


def test_ifa_accepts_a_list_of_layers_and_stays_hashable():
    assert hash(IFA(layers=[3, 1])) == hash(IFA(layers=(3, 1)))


def test_formula_raises_logits_of_either_sign():
    logits = torch.tensor([[3.0, -3.0, -3.0, 5.0]])
    weights = torch.tensor([[0.5, 0.5, 1.0, 0.0]])
    # 3 + .5*3, -3 + .5*3, -3 + 1*3, unchanged
    assert IFA().steer(logits, weights).tolist() == [[4.5, -1.5, 0.0, 5.0]]


def test_formula_is_positively_homogeneous():
    logits, weights = torch.randn(4, 9), torch.rand(9)
    scaled = IFA().steer(logits * 0.25, weights)
    assert torch.equal(scaled, IFA().steer(logits, weights) * 0.25)
