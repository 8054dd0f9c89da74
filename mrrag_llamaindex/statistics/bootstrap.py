"""Bootstrap by patient: all questions of a patient are drawn, or none.

Questions about one patient succeed or fail together, so questions drawn one by one would give
intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
"""Bootstrap samples: the ends of a 95% interval then move by about a fiftieth of its width."""

Interval = tuple[float, float]
"""Lower and upper end, 95%."""

_NORMAL_975 = 1.959963984540054


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
    """Return the 95% interval of a share, from R values of it in [0, 1]; see `interval`.

    Where all questions are right, or none, every bootstrap sample is the same, as if nothing could
    ever go wrong. Wilson's score interval over the patients stands there.

    Examples
    --------
    >>> patients = [str(number) for number in range(300)]
    >>> [round(end, 3) for end in share_interval(np.ones(2000), patients)]
    [0.987, 1.0]
    """
    ends = interval(samples, owners)
    if ends not in ((0.0, 0.0), (1.0, 1.0)):
        return ends
    unseen = largest_unseen_share(len(set(owners)))
    return (0.0, unseen) if ends == (0.0, 0.0) else (1.0 - unseen, 1.0)


def difference_interval(samples: NDArray[np.float64], owners: Sequence[str]) -> Interval | None:
    """Return the 95% interval of a difference of two shares, from R values of it in [-1, 1].

    Where two methods are right on the very same questions, every bootstrap sample of their
    difference is 0, as if they could never differ. They can, on as many patients as may have
    gone unseen, in favour of either.

    Examples
    --------
    >>> patients = [str(number) for number in range(300)]
    >>> [round(end, 3) for end in difference_interval(np.zeros(2000), patients)]
    [-0.013, 0.013]
    """
    ends = interval(samples, owners)
    if ends is None or ends[0] != ends[1] or ends[0] not in (-1.0, 0.0, 1.0):
        return ends
    unseen = largest_unseen_share(len(set(owners)))
    return max(-1.0, ends[0] - unseen), min(1.0, ends[0] + unseen)


def largest_unseen_share(patients: int) -> float:
    """Return the largest share of what was seen in none of n patients (Wilson's 95% end).

    Examples
    --------
    >>> round(largest_unseen_share(29), 3)
    0.117
    """
    # z^2 / (n + z^2), added up as Wilson's centre and half-width are for any number of successes.
    doubled = 2 * (patients + _NORMAL_975**2)
    return _NORMAL_975**2 / doubled + _NORMAL_975 / doubled * _NORMAL_975
