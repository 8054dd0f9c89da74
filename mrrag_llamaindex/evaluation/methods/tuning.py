"""Settings chosen on validation questions, with the same number of tries for every method.

Two studies choose settings: the table of methods, whose rows name their grid, and the noise study.
What they try differs: a method of the table costs a run over all validation questions for each
setting, a policy of the noise study one pass over the questions alone. Which of the tries wins is
decided alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.parsing import rule_named
from mrrag_llamaindex.evaluation.methods.adaptive_context import PUBLISHED_RATIO
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.ranking import ImageToText
from mrrag_llamaindex.mcr.vote import YES_NO

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.prediction import Prediction

Layers = tuple[int, ...]
S = TypeVar("S")

TRIES = 12
"""Settings of every method of the table that is tuned over a grid."""

LEAST_QUESTIONS = 30
"""Validation questions below which nothing is tuned: the best of 12 settings on fewer is chance."""

IMAGE_FLOORS = (0.125, 0.25, 0.5, 1.0)
"""Lambdas of the image that are tried for IFA with a floor."""

_EACH_LAYER = 8


@dataclass(frozen=True)
class Try(Generic[S]):
    """One setting, and how it did on the validation questions.

    Attributes
    ----------
    setting : Method or Contestant
    accuracy : float
        Of yes or no and of choice; for other tasks the mean of what `Task.each` gives.
    confidence : float
        Mean probability of the true answer; decides between equal accuracies.
    """

    setting: S
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Tuned(Generic[S]):
    """The setting that won, and everything that was tried.

    Attributes
    ----------
    setting : Method or Contestant
    tries : tuple of Try
        In the order of the grid; empty for a published setting.
    questions : int
        Validation questions.
    note : str
        The choice in words.
    """

    setting: S
    tries: tuple[Try[S], ...]
    questions: int
    note: str = ""

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the winner on the validation questions; None if nothing was tried."""
        return next((item.accuracy for item in self.tries if item.setting == self.setting), None)


def best_place(tries: Sequence[Try[Any]]) -> int:
    """Return the place of the most accurate; of equal ones the most confident, then the first."""
    return max(range(len(tries)), key=lambda n: (tries[n].accuracy, tries[n].confidence, -n))


# ---- where to steer


def three_places(depth: int, critical: Sequence[int] | None) -> list[Layers]:
    """Return three places to steer: critical layers, all, the last third; distinct if possible.

    Examples
    --------
    >>> three_places(4, (1,))
    [(1,), (0, 1, 2, 3), (3,)]
    >>> three_places(6, None)
    [(2, 3), (0, 1, 2, 3, 4, 5), (4, 5)]
    """
    third = max(1, depth // 3)
    everything = tuple(range(depth))
    middle = everything[third : depth - third] or everything
    preferred = [tuple(critical) if critical else middle, everything, everything[-third:]]
    spare = [middle, everything[:third], everything[: depth // 2], everything[depth // 2 :]]
    places = list(dict.fromkeys(filter(None, [*preferred, *spare])))[:3]
    return places + [everything] * (3 - len(places))


def each_part(depth: int, critical: Sequence[int]) -> list[Layers]:
    """Return the critical layers, all, and each part: layers one by one up to 8, else thirds.

    Examples
    --------
    >>> each_part(3, [1])
    [(1,), (0, 1, 2), (0,), (2,)]
    """
    parts: list[Layers]
    if depth <= _EACH_LAYER:
        parts = [(layer,) for layer in range(depth)]
    else:
        edges = [0, depth // 3, depth - depth // 3, depth]
        parts = [tuple(range(*pair)) for pair in pairwise(edges)]
    return list(dict.fromkeys([tuple(sorted(critical)), tuple(range(depth)), *parts]))


# ---- what is tried of a method

Grid = Callable[[Method, Sequence[Layers]], list[Method]]
"""From a method as published and `three_places` to the settings that are tried."""


def counts(method: Method, places: Sequence[Layers]) -> list[Method]:
    """Try 1 to K documents."""
    most = method.ranking.k if isinstance(method.ranking, ImageToText) else 1
    return [replace(method, ranking=ImageToText(k)) for k in range(1, most + 1)]


def cuts(field: str, value_of: Callable[[float], float]) -> Grid:
    """Try 12 cuts of an adaptive ranking, at drops of .5% to 50% in similarity.

    Parameters
    ----------
    field : str
        Of the ranking.
    value_of : callable
        From the logarithm of a ratio of similarities to the field's value.
    """
    drops = np.geomspace(0.005, math.log(PUBLISHED_RATIO), TRIES).tolist()

    def grid(method: Method, places: Sequence[Layers]) -> list[Method]:
        ranking: Any = method.ranking
        changes = [{field: value_of(drop)} for drop in drops]
        return [replace(method, ranking=replace(ranking, **change)) for change in changes]

    return grid


def of_policy(method: Method, places: Sequence[Layers]) -> list[Method]:
    """Try what the policy names, see `SteeringPolicy.grid`."""
    return [replace(method, policy=policy) for policy in method.policy.grid(places)]


def image_floors(method: Method, places: Sequence[Layers]) -> list[Method]:
    """Try 4 lambdas of the image in each place, at the published strength, see `IFA.image`."""
    policy: Any = method.policy
    changes = [{"image": floor, "layers": place} for place in places for floor in IMAGE_FLOORS]
    return [replace(method, policy=replace(policy, **change)) for change in changes]


# ---- what is chosen

Judge = Callable[[Sequence["Prediction"], str], NDArray[np.float64]]
"""From answers and a rule to how right each is, in [0, 1]."""

Choice = Callable[[Sequence[Try[Method]], int], tuple[int, str]]
"""From tries and number of questions to the place of the winner, and the choice in words."""


def most_accurate(tries: Sequence[Try[Method]], questions: int) -> tuple[int, str]:
    """Choose by `best_place`."""
    best = tries[place := best_place(tries)]
    setting = best.setting.tuned_part()
    return place, f"{setting} ({best.accuracy:.3f} on {questions} questions)"


def tune(
    grid: Sequence[Method],
    predict: Callable[[Method], Sequence[Prediction]],
    choice: Choice = most_accurate,
    *,
    scoring: str = "leading",
    each: Judge | None = None,
) -> Tuned[Method]:
    """Run every setting on the validation questions and keep the best.

    Parameters
    ----------
    grid : sequence of Method
    predict : callable
        Answers the validation questions with a method.
    choice : callable
    scoring : str
        Rule by which an answer is read.
    each : callable, optional
        How right each answer is; by default whether it says the gold label.
    """
    each = each or _is_right
    tries = []
    questions = 0
    for method in grid:
        answers = predict(method)
        questions = len(answers)
        confidence = np.mean([_p_gold(item) for item in answers])
        tries.append(Try(method, float(np.mean(each(answers, scoring))), float(confidence)))
    place, note = choice(tries, questions)
    return Tuned(grid[place], tuple(tries), questions, note)


def _is_right(answers: Sequence[Prediction], scoring: str) -> NDArray[np.float64]:
    verdict = rule_named(scoring)
    return np.array([verdict(item.text) == item.gold for item in answers], dtype=np.float64)


def _p_gold(item: Prediction) -> float:
    """Return p(gold) / (p(yes) + p(no)); one half where neither is known or likely."""
    if item.gold not in YES_NO:
        return 0.5
    yes, no = item.p_yes or 0.0, item.p_no or 0.0
    return (yes if item.gold == "yes" else no) / (yes + no) if yes + no > 0 else 0.5
