"""Twice the workers do nearly twice the work, where cores are not the limit."""

from __future__ import annotations

import pytest

from tests.benchmarks.ray_speedup import speedups

pytestmark = pytest.mark.slow


@pytest.mark.ray
def test_two_workers_are_nearly_twice_and_four_nearly_four_times_as_fast(ray):
    result = speedups(320, 0.05, [2, 4])
    assert result["same_order"]
    assert result["times_faster"][2] >= 1.8, result
    assert result["times_faster"][4] >= 3.5, result
