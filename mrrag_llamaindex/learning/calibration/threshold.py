"""The threshold below which no answer is given, tested on patients that were held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.calibration.data import ScoredQuestion
from mrrag_llamaindex.mcr.calibration import Abstention, Calibration, check_rates

_LEVELS = 20
_STARTS = 4
_SPARE = 1.25


def held_out_threshold(
    calibration: Calibration,
    fit: Sequence[ScoredQuestion],
    held_out: Sequence[ScoredQuestion],
    *,
    error_rate: float,
    confidence: float,
    seed: int,
) -> tuple[Abstention | None, tuple[float, float] | None, str]:
    """Find the threshold on one question of each held-out patient.

    Questions about one patient are not independent, and the binomial test needs that they are.

    Parameters
    ----------
    calibration : Calibration
        Its curve is fitted on `fit` alone.
    fit, held_out : sequence of ScoredQuestion
        Of different patients: where thresholds to try are taken from, and where they are tested.
    error_rate, confidence : float
        See `Abstention`.
    seed : int
        Of the question drawn from each patient.

    Returns
    -------
    abstention : Abstention or None
        None if no threshold keeps the rate.
    coverage_ci : (float, float) or None
        95% interval of the share of questions that are answered (Clopper-Pearson).
    why_not : str
        Why there is none; empty if there is one.
    """
    from scipy.stats import binomtest

    design = calibration.probability([item.scores[0] for item in fit])
    rng = np.random.default_rng(seed)
    drawn: dict[str, ScoredQuestion] = {}
    for place in rng.permutation(len(held_out)).tolist():
        drawn.setdefault(held_out[place].patient_id, held_out[place])
    tested = list(drawn.values())
    best = calibration.probability([item.scores[0] for item in tested])
    right = np.array([item.best_is_right for item in tested])
    abstention = certify(design, best, right, error_rate=error_rate, confidence=confidence)
    if abstention is not None:
        interval = binomtest(abstention.answered, abstention.questions).proportion_ci()
        return abstention, (float(interval.low), float(interval.high)), ""
    least = questions_needed(error_rate, confidence)
    wrong = 1 - float(right.mean())
    why = (
        f"no threshold keeps an error rate of {error_rate:g} with confidence "
        f"{confidence:g}: it takes {least} answered patients even without an error, and "
        f"of the {len(tested)} held out {wrong:.0%} are wrong if all are answered; take more "
        "questions, or a higher rate"
    )
    return None, None, why


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


def _starts(count: int, error_rate: float, delta: float) -> list[int]:
    """Return the levels at which a sequence begins, most selective first.

    The first is the most selective one that enough questions can be expected to pass if none of
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
