"""Map pixel values of any depth to 8 bits through a window."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError

Window: TypeAlias = tuple[float, float]
"""The values that become black and white, low before high."""


def checked_window(window: Window | None, what: str) -> Window | None:
    """Return a window as two floats, or None as None.

    Parameters
    ----------
    window : tuple of float or None
        (low, high).
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If it is not two finite numbers, the first below the second.
    """
    if window is None:
        return None
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        raise ImageError(f"{what}: a window is two numbers, (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImageError(
            f"{what}: a window is two finite numbers, low below high, not ({low:g}, {high:g})"
        )
    return low, high


def value_range(values: npt.NDArray[Any], what: str) -> Window:
    """Minimum and maximum of the values.

    Parameters
    ----------
    values : numpy.ndarray
        Any shape, at least one value.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If a value is NaN or infinite.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(f"{what}: some pixel values are not finite numbers")
    return low, high


def to_uint8(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map ``low``..``high`` linearly to 0..255, rounded; what lies outside is clipped.

    Parameters
    ----------
    values : numpy.ndarray
        Any shape, integers or floats, finite.
    low, high : float
        The values that become 0 and 255. Where they are equal, everything becomes 0.

    Returns
    -------
    numpy.ndarray
        uint8, the shape of ``values``.
    """
    scale = 255.0 / (high - low) if high != low else 0.0
    # In place: a large film takes 1.6 GB in float64.
    levels: npt.NDArray[np.float64] = np.subtract(values, low, dtype=np.float64)
    levels *= scale
    np.round(levels, out=levels)
    np.clip(levels, 0, 255, out=levels)
    return levels.astype(np.uint8)
