"""The threshold below which no answer is given, tested on patients that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrrag_llamaindex.learning.calibration.risk_control import Abstention, certify, questions_needed

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.calibration.data import ScoredQuestion
    from mrrag_llamaindex.mcr.calibration import Calibration


def held_out_threshold(
    calibration: Calibration,
    fit: Sequence[ScoredQuestion],
    held: Sequence[ScoredQuestion],
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
    fit, held : sequence of ScoredQuestion
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
    for place in rng.permutation(len(held)).tolist():
        drawn.setdefault(held[place].patient_id, held[place])
    asked = list(drawn.values())
    best = calibration.probability([item.scores[0] for item in asked])
    right = np.array([item.best_is_right for item in asked])
    found = certify(design, best, right, error_rate=error_rate, confidence=confidence)
    if found is not None:
        interval = binomtest(found.answered, found.questions).proportion_ci()
        return found, (float(interval.low), float(interval.high)), ""
    least = questions_needed(error_rate, confidence)
    wrong = 1 - float(right.mean())
    why = (
        f"no threshold keeps an error rate of {error_rate:g} with confidence "
        f"{confidence:g}: it takes {least} answered patients even without an error, and "
        f"of the {len(asked)} held out {wrong:.0%} are wrong if all are answered; take more "
        "questions, or a higher rate"
    )
    return None, None, why
