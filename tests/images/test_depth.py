"""Values to levels, at the ends of what a number can hold."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.images.depth import to_uint8


@pytest.mark.parametrize(
    ("values", "low", "high", "levels"),
    [
        ([0.0, 5.0, 10.0], 0, 10, [0, 127.5, 255]),
        ([-90.0, 0.0, 90.0], -5e307, 5e307, [127.5, 127.5, 127.5]),
        ([-1.7e308, 0.0, 1.7e308], -1.7e308, 1.7e308, [0, 127.5, 255]),
        ([0.0, 1e300, 4e300], 0, 4e300, [0, 63.75, 255]),
    ],
)
def test_middle_is_grey_however_wide_the_window(values, low, high, levels) -> None:
    with np.errstate(all="raise"):
        found = to_uint8(np.array(values), low, high)
    assert np.abs(found - np.array(levels)).max() <= 0.5
