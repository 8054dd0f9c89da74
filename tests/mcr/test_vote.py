"""The vote: shares by hand, what counts as the same answer, and who may vote."""

from __future__ import annotations

import math

import pytest

from mrrag_llamaindex.mcr.vote import (
    Vote,
    answer_of,
    asks_yes_or_no,
    normal_answer,
    voters,
)


def test_shares_are_the_softmax_over_scores():
    """Temperature .5: weights e^4, e^2, e^0 over scores 2, 1, 0."""
    ballot = Vote(0.5).count([1.0, 2.0, 0.0], ["no", "yes", "no"])
    total = math.exp(4) + math.exp(2) + 1
    assert ballot.shares == pytest.approx(
        {"yes": math.exp(4) / total, "no": (math.exp(2) + 1) / total}
    )
    assert list(ballot.shares) == ["yes", "no"]
    assert ballot.weights == pytest.approx((math.exp(2) / total, math.exp(4) / total, 1 / total))
    assert (ballot.answer, ballot.p_yes, ballot.p_no) == (
        "yes",
        ballot.shares["yes"],
        ballot.shares["no"],
    )


def test_temperature_decides_between_the_best_pair_and_the_many():
    scores, answers = [1.0, 0.9, 0.9, 0.9], ["left", "right", "Right.", "right "]
    assert Vote(0.01).count(scores, answers).answer == "left"
    assert Vote(1.0).count(scores, answers).answer == "right"


def test_scores_of_any_size_are_counted():
    assert Vote(0.1).count([-1e4, -1e4 - 1], ["a lung", "a heart"]).answer == "a lung"
    assert Vote(0.1).count([1e6, 1e6], ["yes", "no"]).p_no == pytest.approx(0.5)


def test_the_better_pair_wins_where_shares_are_equal():
    assert Vote(1.0).count([0.5, 0.5], ["no", "yes"]).answer == "no"


def test_same_answers_in_other_dress_are_one_answer():
    ballot = Vote(1.0).count([0.5, 0.4, 0.4], ["Right  lung", "the right lung.", "Left lung"])
    assert list(ballot.shares) == ["right lung", "left lung"]
    assert ballot.answer == "Right  lung"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("YES, it is", "yes"),
        ("no", "no"),
        ("No acute disease", "no acute disease"),
        ("A", "a"),
        ("5.6cm", "5.6cm"),
    ],
)
def test_normal_form(text, expected):
    assert normal_answer(text) == expected


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Vote(temperature)


@pytest.mark.parametrize(("scores", "answers"), [([], []), ([1.0], ["a", "b"])])
def test_what_cannot_be_counted_is_refused(scores, answers):
    with pytest.raises(ValueError, match="counted"):
        Vote().count(scores, answers)


def test_answers_in_metadata():
    assert answer_of({"label": "no", "answer": "yes"}) == "yes"
    assert answer_of({"label": 3}) == "3"
    assert answer_of({"mass": True}, "mass") == "yes"
    assert answer_of({"mass": False}, "mass") == "no"
    assert answer_of({"answer": " ", "label": "no"}) == "no"
    assert answer_of({"answer": "yes"}, "finding") is None


@pytest.mark.parametrize(
    ("question", "closed"),
    [
        ("Does the heart look enlarged?", True),
        ("is there free air", True),
        ("Is it on the left or on the right?", False),
        ("Where is the mass?", False),
        ("Island of Reil: what is it?", False),
        ("", False),
    ],
)
def test_questions_that_ask_for_yes_or_no(question, closed):
    assert asks_yes_or_no(question) is closed


def test_an_answer_counts_where_it_is_of_the_kind_that_is_asked_for():
    answers = ["left lung", "Yes", None, "no"]
    assert voters("Is there a mass?", answers) == [1, 3]
    assert voters("Where is the mass?", answers) == [0]
    assert voters("Is it left or right?", answers) == [0]
    assert voters("Is there a mass?", ["left", None]) == [0]
    assert voters("Where is the mass?", ["yes", None]) == [0]
    assert voters("Is there a mass?", [None]) == []
