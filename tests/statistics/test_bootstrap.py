"""One bootstrap by patient, and intervals where every sample of it is the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from mrrag_llamaindex.statistics.bootstrap import (
    difference_interval,
    interval,
    largest_unseen_share,
    resampled_means,
    resampled_sums,
    share_interval,
)


@pytest.mark.parametrize("patients", [1, 3, 29, 300, 4000])
def test_the_unseen_share_is_wilsons_upper_end(patients):
    expected = binomtest(0, patients).proportion_ci(method="wilson").high
    assert largest_unseen_share(patients) == pytest.approx(expected, rel=1e-12)


def test_patients_are_drawn_and_not_their_questions():
    hits = np.array([1.0] * 10 + [0.0] * 10)
    owners = ["a"] * 10 + ["b"] * 10
    assert interval(resampled_means(hits, owners, 0), owners) == (0.0, 1.0)
    assert interval(resampled_means(hits, ["a"] * 20, 0), ["a"] * 20) is None


def test_the_spread_is_that_of_the_mean_over_patients():
    values = np.random.default_rng(0).normal(size=400)
    means = resampled_means(values, [str(n) for n in range(400)], 0)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)


def test_columns_of_one_call_are_drawn_together():
    values = np.random.default_rng(0).normal(size=(50, 2))
    sums = resampled_sums(
        np.column_stack([values, values.sum(axis=1)]), list(map(str, range(50))), 0
    )
    assert sums[:, 2] == pytest.approx(sums[:, 0] + sums[:, 1])


def test_intervals_without_width_are_widened_by_what_may_be_unseen():
    owners = [str(number) for number in range(40)]
    unseen = largest_unseen_share(40)
    assert share_interval(np.zeros(9), owners) == (0.0, unseen)
    assert difference_interval(np.ones(9), owners) == (1.0 - unseen, 1.0)
    assert share_interval(np.full(9, 0.5), owners) == (0.5, 0.5)
    assert share_interval(np.ones(9), ["a", "a"]) is None
