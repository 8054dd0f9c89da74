"""Below which score to stay silent, so that a stated share of what is answered is right.

A rule that answers only where the best document is probable enough has a selective risk: the share
of wrong ones among what it answers. The thresholds are tested one after another, in an order that
was fixed before the data were seen, each by an exact binomial test of "the risk exceeds the stated
rate"; the sequence ends at the first that is not rejected. This is Learn then Test with
fixed-sequence testing from several starts (Angelopoulos, Bates, Candès, Jordan and Lei,
arXiv:2110.01052, Algorithm 1), here for selective classification as in Angelopoulos and Bates,
arXiv:2107.07511; the test is the same as asking whether the bound of Clopper and Pearson (1934) is
below the rate. With probability 1 - delta over the questions that were drawn, no threshold is
certified whose risk exceeds the rate. Nothing is assumed about how score and truth are related;
questions must be independent draws of what will be asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError

_LEVELS = 20
_STARTS = 4
_SPARE = 1.25


@dataclass(frozen=True)
class Abstention:
    """A threshold, and what was shown of it.

    Parameters
    ----------
    threshold : float
        A question is answered if the probability of its best document is at least this.
    error_rate : float
        The stated rate: of the answered questions, at most this share has a best document that
        does not support a right answer.
    confidence : float
        1 - delta: the probability that the statement holds.
    answered, errors : int
        Of the questions that the threshold was tested on.
    questions : int
        Their number; one of each patient.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    threshold: float
    error_rate: float
    confidence: float
    answered: int
    errors: int
    questions: int

    def __post_init__(self) -> None:
        check_rates(self.error_rate, self.confidence)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be between 0 and 1")
        if not 0 <= self.errors <= self.answered <= self.questions or not self.questions:
            raise ValueError("errors, answered and questions do not fit each other")

    @property
    def coverage(self) -> float:
        """Share of the questions that are answered."""
        return self.answered / self.questions


def certify(
    design: NDArray[np.float64],
    best: NDArray[np.float64],
    right: NDArray[np.bool_],
    *,
    error_rate: float,
    confidence: float = 0.95,
) -> Abstention | None:
    """Return the threshold that answers most among those whose risk is shown to be low enough.

    Parameters
    ----------
    design : ndarray
        Probabilities of the best documents of other questions, shape (m,): they fix the
        thresholds to try, and must not be those that are tested on.
    best : ndarray
        The same of n questions, one of each patient, shape (n,).
    right : ndarray of bool
        Whether those documents support a right answer, shape (n,).
    error_rate : float
    confidence : float

    Returns
    -------
    Abstention or None
        None if no threshold can be shown to keep the rate.

    Raises
    ------
    ValueError
        If a rate is not strictly between 0 and 1.
    InputError
        If there is nothing to test on, or nothing to fix the thresholds by.
    """
    from scipy.stats import binom

    check_rates(error_rate, confidence)
    if not len(design) or not len(best) or len(best) != len(right):
        raise InputError("a threshold needs questions to be chosen by and others to be tested on")
    shares = np.arange(1, _LEVELS + 1) / _LEVELS
    thresholds = np.quantile(design, 1 - shares, method="inverted_cdf")
    thresholds[-1] = 0.0  # the last rule answers everything
    answered = (best[:, None] >= thresholds).sum(axis=0)
    errors = ((best[:, None] >= thresholds) & ~right[:, None]).sum(axis=0)
    doubt = np.where(answered > 0, binom.cdf(errors, answered, error_rate), 1.0)
    delta = 1 - confidence
    starts = _starts(len(best), error_rate, delta)
    certified: set[int] = set()
    for start in starts:
        for level in range(start, _LEVELS):
            if doubt[level] > delta / len(starts):
                break
            certified.add(level)
    if not certified:
        return None
    level = max(certified)
    return Abstention(
        float(thresholds[level]),
        error_rate,
        confidence,
        int(answered[level]),
        int(errors[level]),
        len(best),
    )


def questions_needed(error_rate: float, confidence: float, starts: int = 1) -> int:
    """Return how many answered questions without one error show that the rate is kept.

    Examples
    --------
    >>> questions_needed(0.1, 0.95)
    29
    """
    check_rates(error_rate, confidence)
    return math.ceil(math.log((1 - confidence) / starts) / math.log1p(-error_rate))


def check_rates(error_rate: float, confidence: float) -> None:
    """Raise `ValueError` unless both are strictly between 0 and 1."""
    for name, value in (("error_rate", error_rate), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must be between 0 and 1")


def _starts(count: int, error_rate: float, delta: float) -> list[int]:
    """Return the levels at which a sequence begins, most selective first.

    The first is the most selective one that so many questions can be expected to pass if none of
    them is wrong, with a quarter to spare for chance; the others follow at equal distances. Their
    number decides, never what was seen on them.
    """
    for starts in range(_STARTS, 0, -1):
        least = _SPARE * questions_needed(error_rate, 1 - delta, starts)
        first = math.ceil(least / count * _LEVELS) - 1
        if first < _LEVELS:
            spread = np.linspace(first, _LEVELS - 1, starts).round().astype(int)
            return [int(level) for level in np.unique(spread)]
    return [_LEVELS - 1]
