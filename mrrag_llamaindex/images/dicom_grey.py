"""Map the stored grey values of a DICOM image to 8 bits, each step by `pydicom.pixels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.depth import Window, to_uint8, value_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def grey_levels(
    stored: npt.NDArray[Any], dataset: Dataset, what: str, window: Window | None = None
) -> npt.NDArray[np.uint8]:
    """Apply the modality transformation and the window of a DICOM image.

    The modality lookup table, else rescale slope and intercept; then ``window``, else the first
    item of the file's VOI lookup tables, else its first window, else the range of the values
    without pixel padding. The polarity is left to the caller.

    Parameters
    ----------
    stored : numpy.ndarray
        The decoded pixels, shape (rows, columns), integers or floats.
    dataset : pydicom.dataset.Dataset
        The header; some of its window's elements are completed in place.
    what : str
        What the image is, for error messages.
    window : tuple of float, optional
        (low, high) in units after the modality transformation.

    Returns
    -------
    numpy.ndarray
        uint8, shape (rows, columns): the window's dark end is 0.

    Raises
    ------
    ImageError
        If a value is not finite, or the file's window cannot be applied.
    """
    from pydicom.pixels.processing import apply_modality_lut

    _lift_functional_groups(dataset)
    # pydicom's lookup subtracts in the array's own type, which overflows in 8 and 16 bits.
    wide = stored.astype(np.int64) if stored.dtype.kind in "iu" else stored
    values = apply_modality_lut(wide, dataset)
    full = value_range(values, what)
    if window is not None:
        return to_uint8(values, *window)
    try:
        if dataset.get("VOILUTSequence"):
            return _looked_up(values, dataset)
        if None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
            return _windowed(values, dataset)
    except Exception:
        raise ImageError(
            f"{what}: the window that this DICOM file asks for cannot be applied; "
            "give one as window=(low, high)"
        ) from None
    shown = values[~_padding(stored, dataset)]
    return to_uint8(values, *(value_range(shown, what) if shown.size else full))


def _lift_functional_groups(dataset: Dataset) -> None:
    # Enhanced objects keep rescale and window per frame, where pydicom's functions do not look.
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(sequence) or [])[:1]:
            for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(part) or [])[:1]:
                    dataset.update(item)


def _windowed(values: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_windowing

    dataset.VOILUTFunction = dataset.get("VOILUTFunction") or "LINEAR"
    with np.errstate(over="ignore"):
        # The levels to which pydicom maps the darkest and the brightest value there is; with a
        # negative slope its dark end is the greater number.
        dark, bright = apply_windowing(np.array([-1e300, 1e300]), dataset)
        if not np.isfinite([dark, bright]).all():
            raise ValueError
        return to_uint8(apply_windowing(values, dataset), dark, bright)


def _looked_up(values: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_voi

    table = dataset.VOILUTSequence[0]
    entries, first, bits = (int(value) for value in table.LUTDescriptor)
    if bits == 8:
        # For 8 bits pydicom computes the index in 8 bits too, which wraps past 256 entries.
        table.LUTDescriptor = [entries, first, 16]
    last = first + (entries or 2**16) - 1
    indices = np.clip(np.rint(values), first, last).astype(np.int64)
    return to_uint8(apply_voi(indices, dataset), 0, 2**bits - 1)


def _padding(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)
