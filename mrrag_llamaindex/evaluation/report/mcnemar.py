"""Two methods on the same questions: McNemar's test, and a paired bootstrap by patient.

McNemar's test takes questions for independent. Several questions about one patient are not, and
then its p-values are too small: the interval of the difference, which draws patients, is the one to
judge by. The p-values stand beside it because readers of this field ask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.report.metrics import verdicts
from mrrag_llamaindex.statistics.bootstrap import Interval, difference_interval, resampled_means


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline, on the same questions.

    Attributes
    ----------
    method, baseline : str
    difference : float
        Accuracy of the method minus that of the baseline.
    ci : (float, float) or None
        Its 95% interval, patients drawn; None with a single patient.
    gained, lost : int
        Questions that only the method, or only the baseline, answers right.
    p_exact, p_mid : float
        McNemar's test, two-sided: exact binomial, and mid-p (Fagerland et al. 2013), which is less
        conservative. Both take questions for independent.
    """

    method: str
    baseline: str
    difference: float
    ci: Interval | None
    gained: int
    lost: int
    p_exact: float
    p_mid: float

    def sentence(self) -> str:
        """Say it in a line, in points of accuracy as the table's last column."""
        interval = "" if self.ci is None else f" [{100 * self.ci[0]:+.1f}, {100 * self.ci[1]:+.1f}]"
        return (
            f"{self.method} minus {self.baseline}: {100 * self.difference:+.1f} points{interval}, "
            f"McNemar p {self.p_mid:.2g} ({self.gained} gained, {self.lost} lost)"
        )


def compare(
    predictions: Sequence[Prediction],
    baseline: Sequence[Prediction],
    rule: str = "leading",
    seed: int = 0,
) -> Comparison:
    """Compare two methods.

    Raises
    ------
    InputError
        If they did not answer the same questions with the same gold labels and patients.
    """
    check_same_questions(baseline, predictions)
    order = {item.question_id: item for item in predictions}
    aligned = [order[item.question_id] for item in baseline]
    mine = _right(aligned, rule)
    theirs = _right(baseline, rule)
    owners = [item.owner for item in baseline]
    gap = mine.astype(float) - theirs
    gained, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return Comparison(
        aligned[0].method,
        baseline[0].method,
        float(gap.mean()),
        difference_interval(resampled_means(gap, owners, seed), owners),
        gained,
        lost,
        *mcnemar(gained, lost),
    )


def mcnemar(gained: int, lost: int) -> tuple[float, float]:
    """Return McNemar's two-sided p-values, exact and mid-p, of the two discordant counts.

    Examples
    --------
    >>> mcnemar(0, 3)  # 2 (1/2)^3, and without half of the observed point on either side
    (0.25, 0.125)
    """
    from scipy.stats import binom, binomtest

    count, fewer = gained + lost, min(gained, lost)
    if count == 0:
        return 1.0, 1.0
    exact = float(binomtest(fewer, count, 0.5).pvalue)
    point = float(binom.pmf(fewer, count, 0.5))
    return exact, min(1.0, 2 * float(binom.cdf(fewer, count, 0.5)) - point)


def check_same_questions(first: Sequence[Prediction], second: Sequence[Prediction]) -> None:
    """Raise `InputError` unless both answer the same questions, each once."""
    if not first or not second:
        raise InputError("there are no answers to compare")
    names = first[0].method, second[0].method
    one, two = ({p.question_id: (p.gold, p.owner) for p in items} for items in (first, second))
    if len(one) < len(first) or len(two) < len(second):
        raise InputError(f"{names[0]!r} or {names[1]!r} answers a question twice")
    if one.keys() != two.keys():
        odd = sorted(one.keys() ^ two.keys())[0]
        raise InputError(
            f"{names[0]!r} and {names[1]!r} did not answer the same questions "
            f"({len(one)} and {len(two)}; only one of them has {odd!r})"
        )
    if one != two:
        odd = next(name for name in one if one[name] != two[name])
        raise InputError(
            f"{names[0]!r} and {names[1]!r} differ in the gold label or patient of {odd!r}: they "
            "were run on different data"
        )


def _right(predictions: Sequence[Prediction], rule: str) -> NDArray[np.bool_]:
    words = verdicts(predictions, rule)
    return np.array([item.gold == word for item, word in zip(predictions, words, strict=True)])
