"""A metric over many answers as a function of sums, so that any metric can be drawn by patient.

The accuracy of some answers is a sum divided by their number; corpus BLEU and a macro F1 are not
means, but functions of sums, too (of matching n-grams, of true and false positives). What is kept
of each answer is therefore a few numbers to be added up, and how to read the metric off the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.statistics.bootstrap import (
    Interval,
    difference_interval,
    resampled_sums,
    share_interval,
)

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measure:
    """One metric of the answers of one method.

    Attributes
    ----------
    columns : ndarray, shape (n, m), float64
        What each of n answers adds.
    of_sums : callable
        From sums, shape (..., m), to the metric, shape (...), in [0, 1].
    """

    columns: Numbers
    of_sums: Callable[[Numbers], Numbers]

    @classmethod
    def mean(cls, values: Sequence[float] | Numbers) -> Measure:
        """Return the mean of one value for each answer.

        Examples
        --------
        >>> Measure.mean([1.0, 0.0, 0.5]).value
        0.5
        """
        numbers = np.asarray(values, dtype=np.float64)
        return cls(np.stack([numbers, np.ones_like(numbers)], axis=1), _ratio)

    @property
    def value(self) -> float:
        """The metric over all answers."""
        return float(self.of_sums(self.columns.sum(axis=0)))

    def interval(self, owners: Sequence[str], seed: int) -> Interval | None:
        """Return the 95% interval, patients drawn; None with a single one."""
        samples = self.of_sums(resampled_sums(self.columns, owners, seed))
        return share_interval(samples, owners)

    def difference(self, other: Measure, owners: Sequence[str], seed: int) -> Interval | None:
        """Return the 95% interval of this minus another one's, on the same draws of patients."""
        sums = resampled_sums(np.concatenate([self.columns, other.columns], axis=1), owners, seed)
        width = self.columns.shape[1]
        gap = self.of_sums(sums[:, :width]) - other.of_sums(sums[:, width:])
        return difference_interval(gap, owners)


Measures = dict[str, Measure]
"""By the name of the metric."""


def _ratio(sums: Numbers) -> Numbers:
    return np.asarray(sums[..., 0] / sums[..., 1])


def f1(true: Numbers, false: Numbers, missed: Numbers) -> Numbers:
    """Return 2 tp / (2 tp + fp + fn), 0 where there is nothing to find and nothing was said."""
    total = 2 * true + false + missed
    return np.divide(2 * true, total, out=np.zeros_like(total), where=total > 0)
