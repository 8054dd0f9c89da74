"""Fitting a calibration on some patients, and measuring and testing it on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.calibration.data import ScoredQuestion
from mrrag_llamaindex.learning.calibration.quality import (
    Quality,
    ReliabilityBin,
    brier_gain,
    measure,
    reliability,
)
from mrrag_llamaindex.learning.calibration.threshold import held_out_threshold
from mrrag_llamaindex.mcr.calibration import Calibration, Method, check_rates, weights_digest
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.statistics.bootstrap import Interval
from mrrag_llamaindex.statistics.patients import split_by_patient

Curve = tuple[tuple[float, float], ...]

_SAYS_NOTHING = (
    "a higher score does not go with support in these questions, so the score says nothing that "
    "could be calibrated: learn the weights first (mrrag train-fusion), or take more questions"
)


LEAST_IN_BLOCK = 10
"""Documents in the first and the last block of an isotonic curve, at least: what a handful of them
did says little, and the best-ranked documents of every question would get its probability."""


def isotonic_curve(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Return the knots of the rising curve of least squares, with ends that are shown.

    The curve's first and last block may hold a few documents, and reach 0 or 1, which no number of
    documents shows. Blocks at the ends are pooled until they hold `LEAST_IN_BLOCK`, and take the
    share that Laplace's rule of succession gives them: (k + 1) / (m + 2) for k of m.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, right.astype(np.float64))
    values = fitted.predict(scores)
    blocks = [
        _Block(float(own.min()), float(own.max()), len(own), int(right[values == value].sum()))
        for value in np.unique(values)
        for own in (scores[values == value],)
    ]
    blocks = _pooled(_pooled(blocks)[::-1])[::-1]
    if len(blocks) < 2:
        raise InputError(_SAYS_NOTHING)
    shares = [block.share for block in blocks]
    # What is drawn towards one half at an end stays on its side of its neighbour.
    shares[0] = min(blocks[0].succession, shares[1])
    shares[-1] = max(blocks[-1].succession, shares[-2])
    if shares[0] >= shares[-1]:
        raise InputError(_SAYS_NOTHING)
    knots = [
        (score, share)
        for block, share in zip(blocks, shares, strict=True)
        for score in dict.fromkeys((block.low, block.high))
    ]
    return tuple(knots)


@dataclass(frozen=True)
class _Block:
    """Documents of neighbouring scores to which the curve gives one probability."""

    low: float
    high: float
    documents: int
    right: int

    @property
    def share(self) -> float:
        return self.right / self.documents

    @property
    def succession(self) -> float:
        return (self.right + 1) / (self.documents + 2)

    def with_next(self, other: _Block) -> _Block:
        return _Block(
            min(self.low, other.low),
            max(self.high, other.high),
            self.documents + other.documents,
            self.right + other.right,
        )


def _pooled(blocks: list[_Block]) -> list[_Block]:
    """Pool the first blocks until there are enough documents in them."""
    while len(blocks) > 1 and blocks[0].documents < LEAST_IN_BLOCK:
        blocks = [blocks[0].with_next(blocks[1]), *blocks[2:]]
    return blocks


def platt_curve(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Return slope and intercept, fitted without penalty to Platt's (1999) smoothed targets.

    A target t strictly between 0 and 1 is a document that counts t times as supporting and 1 - t
    times as not.
    """
    from sklearn.linear_model import LogisticRegression

    yes = int(right.sum())
    no = len(right) - yes
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    centre, spread = float(scores.mean()), float(scores.std())
    if not spread:
        raise InputError(_SAYS_NOTHING)
    column = (np.concatenate([scores, scores])[:, None] - centre) / spread
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(
        column,
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        raise InputError(_SAYS_NOTHING)
    return ((slope, float(model.intercept_[0]) - slope * centre),)


@dataclass(frozen=True)
class CalibrationSettings:
    """How a calibration is fitted.

    Parameters
    ----------
    method : {"isotonic", "platt"}
        Any rising curve, or a logistic one: two numbers, which few questions suffice for.
    error_rate : float
        Of the answered questions, at most this share may have a best document that does not
        support a right answer; see `Abstention`.
    confidence : float
        With which probability that must hold.
    held_out : float
        Share of the patients to measure and to test the threshold on.
    seed : int
        Of the split, of the question drawn from each patient, and of the intervals.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    method: Method = "isotonic"
    error_rate: float = 0.1
    confidence: float = 0.95
    held_out: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_rates(self.error_rate, self.confidence)
        if self.method not in ("isotonic", "platt"):
            raise ValueError(f'method is {self.method!r}; it must be "isotonic" or "platt"')
        if not 0 < self.held_out < 1 or self.seed < 0:
            raise ValueError("held_out must be between 0 and 1, and seed not negative")


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, and what it is worth on patients that it was not fitted on.

    Attributes
    ----------
    calibration : Calibration
    quality, base_rate : Quality
        Of the curve, and of one probability for all: the share in the fitting part.
    gain : float
        Brier score of the base rate minus that of the curve.
    gain_ci : (float, float)
        Its 95% interval, by bootstrap over the same patients.
    reliability : tuple of ReliabilityBin
        What was promised and what happened, held out.
    documents, questions, patients : int
        Held out.
    coverage_ci : (float, float) or None
        95% interval of the share of questions that are answered (Clopper-Pearson).
    why_not : str
        Why there is no threshold, if there is none.
    """

    calibration: Calibration
    quality: Quality
    base_rate: Quality
    gain: float
    gain_ci: Interval
    reliability: tuple[ReliabilityBin, ...]
    documents: int
    questions: int
    patients: int
    coverage_ci: tuple[float, float] | None
    why_not: str

    def as_dict(self) -> dict[str, Any]:
        """Return what ``mrrag calibrate --json`` prints."""
        abstention = self.calibration.abstention
        threshold: dict[str, Any] | None = None
        if abstention is not None:
            threshold = {**asdict(abstention), "coverage": abstention.coverage}
            threshold["coverage_ci"] = self.coverage_ci
        return {
            "method": self.calibration.method,
            "weights": self.calibration.weights,
            "quality": asdict(self.quality),
            "base_rate": asdict(self.base_rate),
            "gain": {"value": self.gain, "ci": list(self.gain_ci)},
            "reliability": [asdict(item) for item in self.reliability],
            "abstention": threshold,
            "why_no_threshold": self.why_not or None,
            "n": {
                "documents": self.documents,
                "questions": self.questions,
                "patients": self.patients,
            },
        }


def fit_calibration(
    questions: Sequence[ScoredQuestion],
    *,
    towers_identity: str,
    weights: AnyWeights,
    settings: CalibrationSettings | None = None,
    about: dict[str, Any] | None = None,
    force: bool = False,
) -> CalibrationReport:
    """Fit the curve on one part of the patients; measure it and find a threshold on the other.

    Parameters
    ----------
    questions : sequence of ScoredQuestion
        All scored by `weights`.
    towers_identity : str
    weights : FusionWeights or QueryGatedWeights
    settings : CalibrationSettings, optional
    about : dict, optional
        What else the file should say of where it comes from; plain JSON values.
    force : bool
        Return a curve that is not shown to be better than the base rate, too.

    Raises
    ------
    InputError
        If there are fewer than four patients, all documents of the fitting part support or none
        does, a higher score does not go with support, or the curve's Brier score on the patients
        held out is not shown to be better than that of one probability for all (95% interval of
        the difference).
    """
    settings = settings or CalibrationSettings()
    names = [item.patient_id for item in questions]
    if len(set(names)) < 4:
        raise InputError(
            f"a calibration needs questions of at least four patients, and there are "
            f"{len(set(names))}: part of them is held out"
        )
    fit, held_out = (
        [questions[place] for place in part]
        for part in split_by_patient(names, settings.held_out, settings.seed)
    )
    scores, right, _ = _documents(fit)
    if right.all() or not right.any():
        raise InputError(
            f"of the {len(right)} documents to fit on {'all' if right.all() else 'none'} support "
            "a right answer, so a score cannot tell them apart; take more questions"
        )
    fit_curve = isotonic_curve if settings.method == "isotonic" else platt_curve
    curve = fit_curve(scores, right)
    calibration = Calibration(settings.method, curve, towers_identity, weights_digest(weights))
    held_scores, held_right, patients = _documents(held_out)
    probability = calibration.probability(held_scores)
    share = np.full_like(probability, right.mean())
    quality = measure(probability, held_right, patients, seed=settings.seed)
    base_rate = measure(share, held_right, patients, seed=settings.seed)
    gain, gain_ci = brier_gain(probability, share, held_right, patients, seed=settings.seed)
    if gain_ci[0] <= 0 and not force:
        raise InputError(
            f"the calibration is not shown to be better than one probability for all: on "
            f"{len(held_right)} documents of other patients its Brier score is "
            f"{quality.brier:.4f}, that of the base rate {base_rate.brier:.4f}, a gain of "
            f"{gain:+.4f} [{gain_ci[0]:+.4f}, {gain_ci[1]:+.4f}]. Take more questions, method "
            "platt, or weights that rank better; force=True (--force) writes it all the same"
        )
    abstention, ci, why_not = held_out_threshold(
        calibration,
        fit,
        held_out,
        error_rate=settings.error_rate,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    facts = {
        **asdict(settings),
        "fitted_on": {"documents": len(right), "questions": len(fit), "supporting": right.mean()},
        "brier": quality.brier,
        "ece": quality.ece,
        **(about or {}),
    }
    return CalibrationReport(
        replace(calibration, abstention=abstention, about=facts),
        quality,
        base_rate,
        gain,
        gain_ci,
        reliability(probability, held_right, patients, seed=settings.seed),
        len(held_right),
        len(held_out),
        len({item.patient_id for item in held_out}),
        ci,
        why_not,
    )


def _documents(
    questions: Sequence[ScoredQuestion],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    scores = np.concatenate([item.scores for item in questions])
    right = np.concatenate([item.right for item in questions])
    return scores, right, [item.patient_id for item in questions for _ in item.scores]
