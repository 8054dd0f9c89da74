"""What a bootstrap cannot tell: intervals where every sample of it is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def share_interval(low: float, high: float, patients: int) -> tuple[float, float]:
    """Return a bootstrap's 95% interval of a share, or Wilson's where it has no width.

    Where all questions are right, or none, every bootstrap sample is the same, as if nothing could
    ever go wrong. Wilson's score interval over the patients stands there.

    Examples
    --------
    >>> [round(end, 3) for end in share_interval(1.0, 1.0, 300)]
    [0.987, 1.0]
    >>> share_interval(0.25, 0.5, 300)
    (0.25, 0.5)
    """
    if (low, high) not in ((0.0, 0.0), (1.0, 1.0)):
        return low, high
    unseen = most_unseen(patients)
    return (0.0, unseen) if low == 0.0 else (1.0 - unseen, 1.0)


def difference_interval(low: float, high: float, patients: int) -> tuple[float, float]:
    """Return a bootstrap's 95% interval of a difference of shares, or one with width.

    Where two methods are right on the very same questions, every bootstrap sample of their
    difference is 0, as if they could never differ. They can, on as many patients as may have
    gone unseen, in favour of either.

    Examples
    --------
    >>> [round(end, 3) for end in difference_interval(0.0, 0.0, 300)]
    [-0.013, 0.013]
    >>> difference_interval(-0.25, 0.5, 300)
    (-0.25, 0.5)
    """
    if low != high or low not in (-1.0, 0.0, 1.0):
        return low, high
    unseen = most_unseen(patients)
    return max(-1.0, low - unseen), min(1.0, high + unseen)


def most_unseen(patients: int) -> float:
    """Return the largest share of what was seen in none of so many patients (Wilson's 95% end).

    Examples
    --------
    >>> round(most_unseen(29), 3)
    0.117
    """
    from scipy.stats import binomtest

    return float(binomtest(0, patients).proportion_ci(method="wilson").high)


_RESAMPLES = 2000


def bootstrap_by_patient(
    rows: Mapping[str, NDArray[np.float64]], patients: Sequence[str], seed: int
) -> dict[str, tuple[float, float]]:
    """Return 95% percentile intervals of means; patients are drawn, with all their questions.

    Every row is resampled by the same draws, so a row of differences is a paired bootstrap.
    """
    place = np.unique(np.array(patients), return_inverse=True)[1]
    count = int(place.max()) + 1
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    times = np.stack([np.bincount(row, minlength=count) for row in drawn])
    size = times @ np.bincount(place, minlength=count)
    found = {}
    for name, values in rows.items():
        means = times @ np.bincount(place, weights=values, minlength=count) / size
        low, high = np.percentile(means, [2.5, 97.5])
        found[name] = (float(low), float(high))
    return found
