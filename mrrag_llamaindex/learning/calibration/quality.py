"""How far probabilities are from the truth, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.statistics.bootstrap import (
    Interval,
    interval,
    resampled_means,
    resampled_sums,
    share_interval,
)

Array = NDArray[np.float64]

BINS = 10
"""Bins of the expected calibration error, of equal width, as in Guo et al. (ICML 2017)."""

RELIABILITY_BINS = 5
"""Bins in which promise and outcome are shown: few, so that each has an interval worth reading."""

_SMALLEST = 1e-15


@dataclass(frozen=True)
class Quality:
    """Three measures of probabilities against what happened; lower is better in all.

    Attributes
    ----------
    brier : float
        Mean squared distance from 1 (it happened) or 0 (Brier 1950).
    log_loss : float
        Mean negative log-likelihood, in nats.
    ece : float
        Expected calibration error: the distance between mean probability and share that
        happened, averaged over `BINS` bins by their number of documents.
    ci : dict
        95% intervals of the three (percentile bootstrap over patients).
    """

    brier: float
    log_loss: float
    ece: float
    ci: dict[str, Interval]


def measure(
    probability: Array, happened: NDArray[np.bool_], patients: Sequence[str], *, seed: int = 0
) -> Quality:
    """Measure n probabilities.

    Parameters
    ----------
    probability : ndarray
        Shape (n,), between 0 and 1.
    happened : ndarray of bool
        Shape (n,).
    patients : sequence of str
        n; the resampling draws patients with all that is theirs.
    seed : int

    Raises
    ------
    InputError
        If they are of fewer than two patients.
    """
    truth = happened.astype(np.float64)
    inside = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    squared = (probability - truth) ** 2
    surprise = -np.log(np.where(happened, inside, 1 - inside))
    # Per document: itself, squared errors, surprise, and for each bin probability minus truth.
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    columns = np.zeros((len(truth), 3 + BINS))
    columns[:, :3] = np.stack([np.ones_like(truth), squared, surprise], axis=1)
    columns[np.arange(len(truth)), 3 + bins] = probability - truth
    brier, log_loss, ece = _means(columns.sum(axis=0, keepdims=True))[0].tolist()
    samples = _means(resampled_sums(columns, patients, seed))
    ci = {}
    for name, values in zip(("brier", "log_loss", "ece"), samples.T, strict=True):
        ends = interval(values, patients)
        if ends is None:
            raise InputError("probabilities are measured on the questions of two patients at least")
        ci[name] = ends
    return Quality(brier, log_loss, ece, ci)


@dataclass(frozen=True)
class ReliabilityBin:
    """Documents of like probability: what was promised, and what happened.

    Attributes
    ----------
    low, high : float
        Lowest and highest probability among them.
    promised, happened : float
        Mean probability, and share.
    ci : (float, float) or None
        95% interval of the share, by bootstrap over patients; None with a single patient.
    documents : int
    """

    low: float
    high: float
    promised: float
    happened: float
    ci: Interval | None
    documents: int


def reliability(
    probability: Array, happened: NDArray[np.bool_], patients: Sequence[str], *, seed: int = 0
) -> tuple[ReliabilityBin, ...]:
    """Return up to `RELIABILITY_BINS` bins of about as many documents each, by probability.

    Documents of one probability are in one bin.

    Parameters
    ----------
    probability, happened, patients, seed
        As for `measure`.
    """
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, RELIABILITY_BINS + 1)[1:-1]))
    number = np.searchsorted(edges, probability, side="right")
    bins = []
    for value in np.unique(number):
        own = np.flatnonzero(number == value)
        truth = happened[own].astype(np.float64)
        names = [patients[place] for place in own.tolist()]
        ends = share_interval(resampled_means(truth, names, seed), names)
        held = probability[own]
        bins.append(
            ReliabilityBin(
                low=float(held.min()),
                high=float(held.max()),
                promised=float(held.mean()),
                happened=float(truth.mean()),
                ci=ends,
                documents=len(own),
            )
        )
    return tuple(bins)


def brier_gain(
    probability: Array,
    base: Array,
    happened: NDArray[np.bool_],
    patients: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Return the Brier score of ``base`` minus that of ``probability``, and its 95% interval.

    Both are measured on the same bootstrap samples of patients.

    Raises
    ------
    InputError
        If there are fewer than two patients.
    """
    truth = happened.astype(np.float64)
    values = (base - truth) ** 2 - (probability - truth) ** 2
    ends = interval(resampled_means(values, patients, seed), patients)
    if ends is None:
        raise InputError("probabilities are measured on the questions of two patients at least")
    return float(values.mean()), ends


def _means(sums: Array) -> Array:
    """Return Brier score, log loss and calibration error, shape (r, 3), of r rows of sums."""
    errors = np.abs(sums[:, 3:]).sum(axis=1)
    return np.column_stack([sums[:, 1], sums[:, 2], errors]) / sums[:, :1]
