"""Map pixel values of any depth to 8 bits through a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError

Window: TypeAlias = tuple[float, float]
"""The values that become black and white, low before high."""


_BAND = 2**20
_LARGE = 1e300
"""Values mapped at once: 8 MiB in float64."""


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


def bands(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Cut an image into bands of whole rows, so that a step needs little memory beside it.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (rows, columns, ...).

    Yields
    ------
    numpy.ndarray
        Views of shape (some rows, columns, ...), about `_BAND` values each, from the top.
    """
    rows = max(1, _BAND // max(1, values[:1].size))
    for top in range(0, len(values), rows):
        yield values[top : top + rows]


def in_bands(
    values: npt.NDArray[Any],
    step: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]],
    channels: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Map an image to 8 bits, one band after the other.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (rows, columns) or (rows, columns, channels).
    step : callable
        From a band to its levels.
    channels : int, optional
        Channels of the result; as many as ``values`` has by default.

    Returns
    -------
    numpy.ndarray
        uint8, shape (rows, columns) or (rows, columns, channels).
    """
    shape = values.shape if channels is None else (*values.shape[:2], channels)
    levels = np.empty(shape, dtype=np.uint8)
    top = 0
    for band in bands(values):
        levels[top : top + len(band)] = step(band)
        top += len(band)
    return levels


def value_range(parts: Iterable[npt.NDArray[Any]], what: str) -> Window:
    """Minimum and maximum of the values.

    Parameters
    ----------
    parts : iterable of numpy.ndarray
        Any shapes, at least one value each.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If a value is NaN or infinite.
    """
    ends = np.array([(part.min(), part.max()) for part in parts], dtype=np.float64)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
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
    levels = np.zeros(values.shape, dtype=np.uint8)
    if high == low:
        return levels
    top = 0
    # Near the largest double, 255 times a value is beyond it; a power of two changes no digit.
    smaller = 2.0**-64 if max(abs(low), abs(high)) > _LARGE else 1.0
    low, high = low * smaller, high * smaller
    for band in bands(values):
        part = band if smaller == 1.0 else band * smaller
        scaled: npt.NDArray[np.float64] = np.subtract(part, low, dtype=np.float64)
        # In this order the middle of a window is 127.5 exactly, whichever its width.
        scaled *= 255.0
        scaled /= high - low
        np.round(scaled, out=scaled)
        np.clip(scaled, 0, 255, out=scaled)
        levels[top : top + len(band)] = scaled
        top += len(band)
    return levels
