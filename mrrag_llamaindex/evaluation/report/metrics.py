"""How well a method answers: point values with scikit-learn, 95% intervals by patient.

"yes" is the positive class. An answer that says neither counts as wrong and in the invalid rate;
precision and recall take it for a prediction of neither class. MR-RAG's F1 is the macro F1, RULE's
and MMed-RAG's that of the positive class: both stand in every row, and tables must not be mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.parsing import rule_named
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.statistics.bootstrap import Interval, resampled_sums, share_interval

CLASSES = ("yes", "no")
"""The labels, in the order of every array here; the positive class comes first."""

VERDICTS = ("yes", "no", "other")


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class; 0 where it was never said (or never true)."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Majority:
    """What always giving the most frequent label scores (yes where both are as frequent)."""

    label: str
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Row:
    """One method's line of a table.

    Attributes
    ----------
    method, rule : str
        `rule` read the answers.
    n, patients : int
        Questions, and whom the bootstrap drew.
    accuracy, macro_f1, precision, recall, positive_f1, invalid_rate : float
        `precision` and `recall` are macro means over yes and no.
    intervals : dict
        By the names of these six: 95%, by patient; None with a single patient.
    classes : dict
        ``"yes"`` and ``"no"`` to `ClassScores`.
    """

    method: str
    rule: str
    n: int
    patients: int
    accuracy: float
    macro_f1: float
    precision: float
    recall: float
    positive_f1: float
    invalid_rate: float
    intervals: dict[str, Interval | None]
    classes: dict[str, ClassScores]

    @property
    def accuracy_ci(self) -> Interval | None:
        """95% interval of the accuracy."""
        return self.intervals["accuracy"]


def score(predictions: Sequence[Prediction], rule: str = "leading", seed: int = 0) -> Row:
    """Score the answers of one method.

    Parameters
    ----------
    predictions
        Of one method, each question once.
    rule
        ``leading`` or ``cares``: how the answers are read. The gold labels were read when the data
        set was; for figures comparable to those of CARES read it with that rule, too.
    seed
        Of the bootstrap.

    Raises
    ------
    InputError
        If there are no answers, several methods, or two answers to a question.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    _check(predictions)
    gold = [item.gold for item in predictions]
    answers = verdicts(predictions, rule)
    owners = [item.owner for item in predictions]
    values = precision_recall_fscore_support(gold, answers, labels=list(CLASSES), zero_division=0)
    classes = {
        name: ClassScores(float(p), float(r), float(f1), int(support))
        for name, p, r, f1, support in zip(CLASSES, *values, strict=True)
    }
    precision, recall, macro_f1 = (float(np.mean(column)) for column in values[:3])
    sampled = from_confusion(resampled_sums(_cells(gold, answers), owners, seed).reshape(-1, 2, 3))
    return Row(
        method=predictions[0].method,
        rule=rule,
        n=len(gold),
        patients=len(set(owners)),
        accuracy=float(accuracy_score(gold, answers)),
        macro_f1=macro_f1,
        precision=precision,
        recall=recall,
        positive_f1=classes["yes"].f1,
        invalid_rate=answers.count("other") / len(answers),
        intervals={name: share_interval(samples, owners) for name, samples in sampled.items()},
        classes=classes,
    )


def majority(predictions: Sequence[Prediction]) -> Majority:
    """Return what the most frequent gold label would score, without looking at anything."""
    if not predictions:
        raise InputError("there are no answers to score")
    count = len(predictions)
    yes = sum(item.gold == "yes" for item in predictions)
    accuracy = max(yes, count - yes) / count
    # F1 of the class that is always said is 2a / (1 + a), of the other 0.
    return Majority("yes" if 2 * yes >= count else "no", accuracy, accuracy / (1 + accuracy))


def verdicts(predictions: Sequence[Prediction], rule: str) -> list[str]:
    """Return what each answer says under a rule."""
    verdict = rule_named(rule)
    return [verdict(item.text) for item in predictions]


def from_confusion(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of many confusion tables at once, as scikit-learn defines them.

    Parameters
    ----------
    counts
        Shape (..., 2, 3): rows are true yes and no, columns are said yes, no and other.

    Returns
    -------
    dict
        The six metrics of `Row`, each of shape (...,).
    """
    right = np.stack([counts[..., 0, 0], counts[..., 1, 1]], axis=-1)
    true = counts.sum(axis=-1)
    answers = counts.sum(axis=-2)
    total = true.sum(axis=-1)
    f1 = _ratio(2 * right, true + answers[..., :2])
    return {
        "accuracy": right.sum(axis=-1) / total,
        "macro_f1": f1.mean(axis=-1),
        "precision": _ratio(right, answers[..., :2]).mean(axis=-1),
        "recall": _ratio(right, true).mean(axis=-1),
        "positive_f1": f1[..., 0],
        "invalid_rate": answers[..., 2] / total,
    }


def _ratio(part: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, total, out=np.zeros_like(part, dtype=np.float64), where=total > 0)


def _cells(gold: Sequence[str], answers: Sequence[str]) -> NDArray[np.float64]:
    """Return one-hot rows over the six cells of the confusion table, shape (n, 6)."""
    places = [
        CLASSES.index(true) * 3 + VERDICTS.index(answer)
        for true, answer in zip(gold, answers, strict=True)
    ]
    return np.eye(6)[places]


def _check(predictions: Sequence[Prediction]) -> None:
    if not predictions:
        raise InputError("there are no answers to score")
    methods = sorted({item.method for item in predictions})
    if len(methods) > 1:
        raise InputError(f"answers of {methods[0]!r} and {methods[1]!r} cannot be one row")
    if len({item.question_id for item in predictions}) < len(predictions):
        raise InputError(f"{methods[0]!r} answers a question twice; pool seeds with pool()")
