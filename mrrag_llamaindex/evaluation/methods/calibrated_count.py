"""RULE's calibrated number of documents: the largest risk that validation questions rule out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.methods.method import Method
    from mrrag_llamaindex.evaluation.methods.ranking import ImageToText
    from mrrag_llamaindex.evaluation.methods.tuning import Try

LEVEL = 0.05
"""delta: how often the promise of a calibration may be broken."""


@dataclass(frozen=True)
class CalibratedCount:
    """The number of documents that RULE would read.

    Attributes
    ----------
    k : int
    valid : tuple of int
        Numbers of documents whose risk is at most `alpha` with confidence ``1 - LEVEL``.
    risks : mapping of int to float
        Share of validation questions answered wrongly, by number of documents.
    alpha : float
        The risk that is promised.
    questions : int
    """

    k: int
    valid: tuple[int, ...]
    risks: Mapping[int, float]
    alpha: float
    questions: int

    def __str__(self) -> str:
        """Say what was calibrated, in one line."""
        promise = (
            f"wrong answers at most {self.alpha:.0%} with confidence {1 - LEVEL:.0%}"
            if self.valid
            else f"no number keeps wrong answers below {self.alpha:.0%}: that of the lowest risk"
        )
        return f"k = {self.k} ({promise}; {self.questions} questions)"


def calibrate_count(
    wrong: Mapping[int, int], questions: int, *, alpha: float | None = None, level: float = LEVEL
) -> CalibratedCount:
    """Choose how many documents to read by controlling the risk of a wrong answer.

    RULE (Xia et al., EMNLP 2024) controls the factuality risk ``FR(k) = 1 - ACC(k)`` with the
    "learn then test" form of conformal risk control (Angelopoulos et al., 2021): for each k the
    hypothesis "FR(k) > alpha" has the Hoeffding-Bentkus p-value

        p_k = min( exp(-n h(min(R_k, alpha), alpha)),  e P(Bin(n, alpha) <= ceil(n R_k)) ),
        h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)),

    with R_k the risk seen on n validation questions. Testing all k at ``level / number of k``
    (Bonferroni), the k whose hypothesis is rejected keep their risk below alpha, all at once, with
    probability at least ``1 - level``.

    The set does not say which k to take. Here it is the one of lowest risk, and of equal ones the
    smallest; if the set is empty, the same among all k, and the result says so.

    Parameters
    ----------
    wrong : mapping of int to int
        Wrong answers among the questions, by number of documents k.
    questions : int
        n.
    alpha : float, optional
        The risk to promise. RULE gives none for its tables; by default the smallest multiple of
        .05 that at least one k can keep, up to .5 (a coin's).
    level : float

    Raises
    ------
    ValueError
        If there is no k, no question, or a number that is not possible.
    """
    if not wrong or questions < 1 or any(not 0 <= count <= questions for count in wrong.values()):
        raise ValueError(f"{dict(wrong)} wrong answers of {questions}: not possible")
    risks = {k: count / questions for k, count in sorted(wrong.items())}
    limit = level / len(risks)
    alphas = [alpha] if alpha is not None else [step / 20 for step in range(1, 11)]
    valid: tuple[int, ...] = ()
    for promise in alphas:
        valid = tuple(k for k, r in risks.items() if p_value(r, questions, promise) <= limit)
        if valid:
            break
    best = min(valid or risks, key=lambda k: (risks[k], k))
    return CalibratedCount(best, valid, risks, promise, questions)


def controlled_count(tries: Sequence[Try[Method]], questions: int) -> tuple[int, str]:
    """Choose by `calibrate_count` among settings of `ImageToText`."""
    rankings = [cast("ImageToText", item.setting.ranking) for item in tries]
    wrong = {
        ranking.k: questions - round(item.accuracy * questions)
        for ranking, item in zip(rankings, tries, strict=True)
    }
    count = calibrate_count(wrong, questions)
    return list(wrong).index(count.k), str(count)


def p_value(risk: float, questions: int, alpha: float) -> float:
    """Return the Hoeffding-Bentkus p-value of "the risk is above alpha".

    Examples
    --------
    >>> round(p_value(0.1, 100, 0.25), 6), p_value(0.3, 100, 0.25)
    (0.000373, 1.0)
    """
    from scipy.special import rel_entr
    from scipy.stats import binom

    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must be between 0 and 1")
    seen = min(risk, alpha)
    divergence = float(rel_entr(seen, alpha) + rel_entr(1 - seen, 1 - alpha))
    hoeffding = math.exp(-questions * divergence)
    # Rounding may put n * risk just above the whole number that it is.
    count = math.ceil(round(questions * risk, 9))
    return min(1.0, hoeffding, math.e * float(binom.cdf(count, questions, alpha)))
