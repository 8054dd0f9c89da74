"""Bootstrap by patient: all questions of a patient are drawn, or none.

Questions about one patient succeed or fail together, so questions drawn one by one would give
intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.statistics import intervals

RESAMPLES = 2000
"""Bootstrap samples: the ends of a 95% interval then move by about a fiftieth of its width."""

Interval = tuple[float, float]
"""Lower and upper end, 95%."""


def resampled_sums(
    values: ArrayLike, owners: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return the column sums of bootstrap samples.

    Parameters
    ----------
    values
        Shape (n, m): m numbers of each question.
    owners
        n names: whose questions they are.
    seed
        What is to be compared on the same draws goes in as columns of one call.
    resamples
        R.

    Returns
    -------
    ndarray
        Shape (R, m), float64: sums over as many patients as there are, drawn with replacement.
    """
    numbers = np.asarray(values, dtype=np.float64)
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    place = np.array([places[owner] for owner in owners])
    columns = (np.bincount(place, weights=column) for column in numbers.T)
    of_patient = np.stack(list(columns), axis=1)
    # Patients with the same numbers are interchangeable, so how often each kind of patient is drawn
    # is all that matters: a multinomial, exactly, and a small one even for 100,000 patients.
    kinds, frequency = np.unique(of_patient, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(places), frequency / len(places), size=resamples)
    return np.asarray(times @ kinds)


def resampled_means(
    values: NDArray[np.float64], owners: Sequence[str], seed: int
) -> NDArray[np.float64]:
    """Return the R means of n values over bootstrap samples, see `resampled_sums`."""
    sums = resampled_sums(np.stack([values, np.ones_like(values)], axis=1), owners, seed)
    return np.asarray(sums[:, 0] / sums[:, 1])


def interval(samples: NDArray[np.float64], owners: Sequence[str]) -> Interval | None:
    """Return the 95% percentile interval of R values; None with fewer than two patients."""
    if len(set(owners)) < 2:
        return None
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def share_interval(samples: NDArray[np.float64], owners: Sequence[str]) -> Interval | None:
    """Return the 95% interval of a share, from R values of it in [0, 1].

    See `interval`, and `retrieval.intervals.share_interval` for a share of which all questions
    are right, or none.
    """
    found = interval(samples, owners)
    return None if found is None else intervals.share_interval(*found, len(set(owners)))


def difference_interval(samples: NDArray[np.float64], owners: Sequence[str]) -> Interval | None:
    """Return the 95% interval of a difference of two shares, from R values of it in [-1, 1].

    See `interval`, and `retrieval.intervals.difference_interval` for two methods that are right
    on the same questions.
    """
    found = interval(samples, owners)
    return None if found is None else intervals.difference_interval(*found, len(set(owners)))
