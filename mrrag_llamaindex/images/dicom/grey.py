"""Map the stored grey values of a DICOM image to 8 bits (PS3.4, annex N.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import ImageWarning
from mrrag_llamaindex.images.depth import Window, bands, in_bands, to_uint8, value_range
from mrrag_llamaindex.images.dicom.elements import first_value, items, named, number
from mrrag_llamaindex.images.dicom.tables import LookupTable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from mrrag_llamaindex.images.dicom.layout import Layout

Values: TypeAlias = npt.NDArray[Any]
Step: TypeAlias = Callable[[Values], Values]


def grey_levels(
    stored: Values,
    dataset: Dataset,
    layout: Layout,
    what: str,
    window: Window | None = None,
    *,
    frame: int = 1,
    little_endian: bool = True,
) -> npt.NDArray[np.uint8]:
    """Apply the modality transformation and the window of a DICOM image.

    The modality lookup table, else rescale slope and intercept, of which a lone one has 1 or 0
    beside it; then ``window``, else the first item of the file's VOI lookup tables, else its first
    window, else the range of the values without pixel padding. The polarity is left to the caller.
    A large film is mapped band by band.

    Parameters
    ----------
    stored : numpy.ndarray
        The stored values, shape (rows, columns), integers or floats.
    dataset : pydicom.dataset.Dataset
        The header; what functional groups say of the frame is copied to its top, in place.
    layout : Layout
    what : str
        What the image is, for error messages.
    window : tuple of float, optional
        (low, high) in units after the modality transformation.
    frame : int
        From 1, for the functional groups.
    little_endian : bool
        Byte order of the file.

    Returns
    -------
    numpy.ndarray
        uint8, shape (rows, columns): the window's dark end is 0.

    Raises
    ------
    ImageError
        If a value is not finite, or the file's own transformation cannot be applied.

    Warns
    -----
    ImageWarning
        If the file's window cannot be used and the full range is shown, or a lookup table holds
        fewer or more bits than it says.
    """
    lift_functional_groups(dataset, frame, what)
    modality = _modality(dataset, what, little_endian, bool(stored.min() < 0))
    full = value_range((modality(band) for band in bands(stored)), what)
    if window is not None:
        return in_bands(stored, lambda band: to_uint8(modality(band), *window))
    voi = _voi(dataset, what, little_endian, full[0] < 0)
    if voi is not None:
        return in_bands(stored, lambda band: voi(modality(band)))
    low, high = _range_shown(stored, modality, dataset, layout, what, full)
    return in_bands(stored, lambda band: to_uint8(modality(band), low, high))


def grey_values(
    stored: Values,
    dataset: Dataset,
    layout: Layout,
    what: str,
    *,
    frame: int = 1,
    little_endian: bool = True,
) -> tuple[Values, Window | None]:
    """Return the values behind `grey_levels`, and the window that it shows them through.

    Parameters
    ----------
    stored, dataset, layout, what, frame, little_endian
        As for `grey_levels`.

    Returns
    -------
    values : numpy.ndarray
        Shape (rows, columns), after the modality transformation.
    window : tuple of float or None
        None where the file maps its values by a table or a curve, which no window is.
    """
    lift_functional_groups(dataset, frame, what)
    modality = _modality(dataset, what, little_endian, bool(stored.min() < 0))
    values = modality(stored)
    full = value_range(bands(values), what)
    if items(dataset, "VOILUTSequence", what):
        return values, None
    found = _file_window(dataset, what)
    if found is None:
        return values, _range_shown(stored, modality, dataset, layout, what, full)
    function, centre, width = found
    return values, None if function == "SIGMOID" else _ends(function, centre, width)


def _range_shown(
    stored: Values, modality: Step, dataset: Dataset, layout: Layout, what: str, full: Window
) -> Window:
    """Range of the values without pixel padding."""
    padding = _padding(dataset, layout, what)
    shown = (band[~padding(band)] for band in bands(stored))
    ranges = [value_range([modality(part)], what) for part in shown if part.size]
    low = min((low for low, _ in ranges), default=full[0])
    return low, max((high for _, high in ranges), default=full[1])


def lift_functional_groups(dataset: Dataset, frame: int, what: str) -> None:
    """Copy rescale and window of a frame to the top, where objects that are not Enhanced have them.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        Changed in place.
    frame : int
        From 1.
    what : str
        What the image is, for error messages.
    """
    shared = items(dataset, "SharedFunctionalGroupsSequence", what)[:1]
    own = items(dataset, "PerFrameFunctionalGroupsSequence", what)[frame - 1 : frame]
    for group in (*shared, *own):
        for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in items(group, part, what)[:1]:
                dataset.update(item)


def _modality(dataset: Dataset, what: str, little_endian: bool, signed: bool) -> Step:
    if luts := items(dataset, "ModalityLUTSequence", what):
        table = LookupTable.read(luts[0], what, little_endian)
        return lambda values: table.apply(values, signed=signed)
    slope = number(dataset, "RescaleSlope", what, 1)
    intercept = number(dataset, "RescaleIntercept", what, 0)
    if slope == 0:
        raise ImageError(
            f"{what}: {named('RescaleSlope')} of this DICOM file is 0, which makes every value the "
            "same"
        )
    if (slope, intercept) == (1, 0):
        return lambda values: values
    return lambda values: values * np.float64(slope) + intercept


def _voi(dataset: Dataset, what: str, little_endian: bool, signed: bool) -> Step | None:
    """Return the file's own mapping to 8 bits, if it has one that can be used."""
    if luts := items(dataset, "VOILUTSequence", what):
        table = LookupTable.read(luts[0], what, little_endian)
        white = 2**table.depth - 1
        if table.depth != table.stated_bits:
            _note(what, f"its VOI LUT holds {table.depth} bits, not {table.stated_bits} as it says")
        return lambda values: to_uint8(table.apply(values, signed=signed), 0, white)
    found = _file_window(dataset, what)
    if found is None:
        return None
    function, centre, width = found
    if function == "SIGMOID":
        return lambda values: _sigmoid(values, centre, width)
    low, high = _ends(function, centre, width)
    if low == high:  # a threshold
        return lambda values: np.where(values > low, 255, 0).astype(np.uint8)
    return lambda values: to_uint8(values, low, high)


def _file_window(dataset: Dataset, what: str) -> tuple[str, float, float] | None:
    """Return function, centre and width of the file's first window, if it can be used."""
    values = [first_value(dataset, name) for name in ("WindowCenter", "WindowWidth")]
    if None in values:
        if values != [None, None]:
            absent = "WindowCenter" if values[0] is None else "WindowWidth"
            _note(what, f"{named(absent)} is missing or empty: the full range of values is shown")
        return None
    centre, width = _finite_window(dataset, what)
    function = str(first_value(dataset, "VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise _no_window(what)
    # PS3.3, C.11.2.1.2.1: from 1 upwards for LINEAR; the others only need something above 0.
    if width <= 0 or (function == "LINEAR" and width < 1):
        _note(
            what,
            f"{named('WindowWidth')} is {width:g}, which is no window: the full range of values "
            "is shown",
        )
        return None
    return function, centre, width


def _ends(function: str, centre: float, width: float) -> Window:
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _sigmoid(values: Values, centre: float, width: float) -> npt.NDArray[np.uint8]:
    # PS3.3, C.11.2.1.3.1
    with np.errstate(over="ignore"):
        return to_uint8(1 / (1 + np.exp(-4 * (values - centre) / width)), 0, 1)


def _finite_window(dataset: Dataset, what: str) -> tuple[float, float]:
    try:
        return number(dataset, "WindowCenter", what), number(dataset, "WindowWidth", what)
    except ImageError:
        raise _no_window(what) from None


def _no_window(what: str) -> ImageError:
    return ImageError(
        f"{what}: the window that this DICOM file asks for cannot be applied; give one as "
        "window=(low, high), or --window low,high on the command line"
    )


def _note(what: str, text: str) -> None:
    warnings.warn(f"{what}: this DICOM file: {text}", ImageWarning, stacklevel=2)


def _padding(
    dataset: Dataset, layout: Layout, what: str
) -> Callable[[Values], npt.NDArray[np.bool_]]:
    """Tell which stored values are no part of the picture."""
    for name in ("FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue", "PixelPaddingValue"):
        if first_value(dataset, name) is not None:
            break
    else:
        return lambda values: np.zeros(values.shape, dtype=np.bool_)
    end = number(dataset, name, what)
    other = number(dataset, name.replace("Value", "RangeLimit"), what, end)
    ends = sorted(_as_stored(value, layout) for value in (end, other))
    return lambda values: (values >= ends[0]) & (values <= ends[1])


def _as_stored(value: float, layout: Layout) -> float:
    """Return a padding value with the sign of the pixels, whichever its own representation has."""
    if layout.floats:
        return value
    wrapped: int = int(value) % 2**layout.allocated
    negative = layout.signed and wrapped >= 2 ** (layout.allocated - 1)
    return wrapped - 2**layout.allocated if negative else wrapped
