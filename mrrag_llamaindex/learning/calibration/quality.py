"""How far probabilities are from the truth, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.statistics.bootstrap import Interval, interval, resampled_sums

Array = NDArray[np.float64]

BINS = 10
"""Bins of the expected calibration error, of equal width, as in Guo et al. (ICML 2017)."""

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


def _means(sums: Array) -> Array:
    """Return Brier score, log loss and calibration error, shape (r, 3), of r rows of sums."""
    errors = np.abs(sums[:, 3:]).sum(axis=1)
    return np.column_stack([sums[:, 1], sums[:, 2], errors]) / sums[:, :1]
