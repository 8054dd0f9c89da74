"""Settings chosen on validation questions, with the same number of tries for every method.

| method | what is tried |
|---|---|
| rule-k | 1 to K documents, chosen by the risk that they control |
| mmed-rag, mmed-rag-code | 12 cuts |
| pasta, hard-mask | 4 thresholds on lambda x 3 places |
| mcr+ifa | 4 strengths x 3 places |

The places are the model's critical layers, all layers, and the last third; the hard mask's third
place is the prompt, from which the document is dropped. Everything else runs as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mrrag_llamaindex.evaluation.data.parsing import rule_named
from mrrag_llamaindex.evaluation.methods.adaptive_context import (
    PUBLISHED_RATIO,
    GapCut,
    RatioToFirst,
)
from mrrag_llamaindex.evaluation.methods.calibrated_count import calibrate_count
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.ranking import ImageToText

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.run.prediction import Prediction

TRIES = 12
"""Settings of every method that is tuned over a grid."""

LEAST_QUESTIONS = 30
"""Validation questions below which nothing is tuned: the best of 12 settings on fewer is chance."""


@dataclass(frozen=True)
class Try:
    """One setting, and how it did on the validation questions.

    Attributes
    ----------
    setting : str
        The part that is tuned.
    accuracy : float
    confidence : float
        Mean probability of the gold answer, of yes and no alone; decides between equal accuracies.
    """

    setting: str
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Tuned:
    """A method as it was chosen, and everything that was tried.

    Attributes
    ----------
    method : Method
    tries : tuple of Try
        In the order of the grid.
    questions : int
        Validation questions.
    note : str
        What was chosen, in words.
    """

    method: Method
    tries: tuple[Try, ...]
    questions: int
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "method": self.method.name,
            "chosen": self.note,
            "questions": self.questions,
            "tries": [vars(item) for item in self.tries],
        }


def variants(method: Method, depth: int, critical: Sequence[int] | None = None) -> list[Method]:
    """Return the settings of a method that are tried; only itself if nothing is to be tuned.

    Parameters
    ----------
    method : Method
    depth : int
        Decoder layers of the model.
    critical : sequence of int, optional
        Its critical layers.
    """
    ranking, policy = method.ranking, method.policy
    if method.name == "rule-k" and isinstance(ranking, ImageToText):
        return [replace(method, ranking=ImageToText(k)) for k in range(1, ranking.k + 1)]
    cuts = np.geomspace(0.005, math.log(PUBLISHED_RATIO), TRIES).tolist()
    if isinstance(ranking, GapCut):
        return [replace(method, ranking=replace(ranking, gamma=gamma)) for gamma in cuts]
    if isinstance(ranking, RatioToFirst):
        return [replace(method, ranking=replace(ranking, ratio=math.exp(cut))) for cut in cuts]
    if policy is None:
        return [method]
    return [replace(method, policy=item) for item in policy.grid(layer_sets(depth, critical))]


def layer_sets(depth: int, critical: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return three places to steer: critical layers, all, the last third; distinct if possible.

    Examples
    --------
    >>> layer_sets(4, (1,))
    [(1,), (0, 1, 2, 3), (3,)]
    >>> layer_sets(6, None)
    [(2, 3), (0, 1, 2, 3, 4, 5), (4, 5)]
    """
    third = max(1, depth // 3)
    everything = tuple(range(depth))
    middle = everything[third : depth - third] or everything
    wanted = [tuple(critical) if critical else middle, everything, everything[-third:]]
    spare = [middle, everything[:third], everything[: depth // 2], everything[depth // 2 :]]
    found = list(dict.fromkeys(filter(None, [*wanted, *spare])))[:3]
    return found + [everything] * (3 - len(found))


def choose(
    tried: Sequence[Method],
    predict: Callable[[Method], Sequence[Prediction]],
    *,
    scoring: str = "leading",
) -> Tuned:
    """Run every setting on the validation questions and keep the best.

    The most accurate; of equal ones, that which is surest of the right answers; then the first.
    rule-k goes by `calibrate_count` instead.

    Parameters
    ----------
    tried : sequence of Method
    predict : callable
        Answers the validation questions with a method.
    scoring : str
        Rule by which an answer is read.
    """
    read = rule_named(scoring)
    tries = []
    wrong = {}
    questions = 0
    for method in tried:
        answers = predict(method)
        questions = len(answers)
        right = [read(item.text) == item.gold for item in answers]
        sure = [_sure(item) for item in answers]
        accuracy, confidence = float(np.mean(right)), float(np.mean(sure))
        tries.append(Try(_varied(method), accuracy, confidence))
        if isinstance(method.ranking, ImageToText):
            wrong[method.ranking.k] = questions - sum(right)
    if tried[0].name == "rule-k":
        count = calibrate_count(wrong, questions)
        best = next(
            m for m in tried if isinstance(m.ranking, ImageToText) and m.ranking.k == count.k
        )
        return Tuned(best, tuple(tries), questions, str(count))
    place = max(range(len(tries)), key=lambda n: (tries[n].accuracy, tries[n].confidence, -n))
    note = f"{tries[place].setting} (accuracy {tries[place].accuracy:.3f} on {questions} questions)"
    return Tuned(tried[place], tuple(tries), questions, note)


def _varied(method: Method) -> str:
    """Return the part that is tuned: the policy if there is one, else what ranks."""
    return repr(method.policy if method.policy is not None else method.ranking)


def _sure(item: Prediction) -> float:
    """Return p(gold) / (p(yes) + p(no)); one half where neither is known or likely."""
    yes, no = item.p_yes or 0.0, item.p_no or 0.0
    return (yes if item.gold == "yes" else no) / (yes + no) if yes + no > 0 else 0.5
