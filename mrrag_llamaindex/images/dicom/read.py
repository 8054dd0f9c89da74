"""Read one DICOM image as a person would see it: rescaled, windowed, with the right polarity.

Decoding is pydicom's (`pydicom.pixels`), an optional dependency: the extra ``dicom``.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import ImageWarning, one_frame, require_size, unreadable
from mrrag_llamaindex.images.depth import Window
from mrrag_llamaindex.images.dicom.colour import rgb_levels
from mrrag_llamaindex.images.dicom.elements import first_value, named
from mrrag_llamaindex.images.dicom.grey import grey_levels, grey_values
from mrrag_llamaindex.images.dicom.layout import PIXELS, Layout, frame_count
from mrrag_llamaindex.images.dicom.source import DicomSource
from mrrag_llamaindex.images.dicom.stored import decoder_of, stored_values

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Nothing else is read from the file, the name of the patient least of all.
_HEADER = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Modality",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PixelPresentation",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_OFFSETS = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]

_silence = threading.Lock()


def read_dicom(
    data: bytes, *, what: str, window: Window | None = None, frame: int | None = None
) -> Image.Image:
    """Read one frame of a DICOM image.

    Grey values go through the modality lookup table or rescale slope and intercept, then through
    the first window (lookup table, else LINEAR, LINEAR_EXACT or SIGMOID) of the file, then, for
    MONOCHROME1, through an inversion. Without a window the range of the values is taken, pixel
    padding left out. Colour becomes RGB. The order is that of DICOM PS3.4, annex N.2.

    A file without preamble, meta group or transfer syntax is read as the data set that it parses
    as, Implicit VR Little Endian by default.

    Ignored are pixels that are not square (Pixel Spacing, Pixel Aspect Ratio), overlays, ICC
    profiles, Presentation LUT Shape (in an image it repeats the polarity) and presentation states.

    Parameters
    ----------
    data : bytes
        The whole file.
    what : str
        What the image is, for messages. The only values of the file in them are numbers of
        pixels, frames and bits, and the name of the compression.
    window : tuple of float, optional
        (low, high) in units after the rescale, for example HU, instead of the file's window.
        For colour, in 8-bit levels.
    frame : int, optional
        Which frame, from 1, of a file with several.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, Columns x Rows.

    Raises
    ------
    ImageError
        If pydicom is not installed; if the file holds no image, several frames of which none is
        asked for, or not the one that is; if it is damaged, truncated, too small or too large; if
        no decoder for its compression is installed; if an element that is needed is missing or
        impossible, which is named; if its own window or its colour space cannot be applied.

    Warns
    -----
    ImageWarning
        If a step had to be chosen because the file leaves it open or states it wrongly.
    """
    try:
        from pydicom import pixels  # noqa: F401
    except ImportError:
        raise ImageError(
            f"{what}: this is a DICOM file, which needs pydicom 3 or newer; "
            'pip install "mrrag-llamaindex[dicom]"'
        ) from None
    notes: list[str] = []
    with _quiet(notes):
        try:
            image = _read(data, what, window, frame)
        except ImageError:
            raise
        # A damaged file makes pydicom raise almost anything; each means the same to the caller.
        except Exception as error:
            raise unreadable(what, error) from None
    for note in notes:
        warnings.warn(note, ImageWarning, stacklevel=3)
    return image


@contextmanager
def _quiet(notes: list[str]) -> Iterator[None]:
    """Silence pydicom, and add what this package warns of to ``notes``.

    pydicom writes values that it cannot read into warnings and its log, and the path into its log.
    The lock keeps two threads from restoring the warning filters in the wrong order.
    """
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("pydicom")]
    loggers = [logging.getLogger(name) for name in names]
    with _silence, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ImageWarning)
        for logger in loggers:
            logger.addFilter(from_elsewhere)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(from_elsewhere)
    notes.extend(str(item.message) for item in caught)


@dataclass(frozen=True)
class _Decoded:
    """One frame, its samples decoded and nothing else done to them."""

    values: npt.NDArray[Any]
    colour: str
    dataset: Dataset
    layout: Layout
    little_endian: bool


def _decoded(data: bytes, what: str, frame: int | None) -> _Decoded:
    source = DicomSource.of(data, what)
    decoder = decoder_of(source.syntax, what) if source.syntax else None
    header = source.read(_HEADER, pixels=False)
    if "Rows" not in header or "Columns" not in header:
        raise ImageError(
            f"{what}: this DICOM file holds no image; it is a report, a plan or the like, or it "
            "is incomplete"
        )
    # Before anything else of its size is read.
    if (count := frame_count(header, what)) > 1:
        one_frame(count, frame, what)
    # The pixels are not read yet, but those that are floats have no Bits Stored.
    floats = first_value(header, "BitsStored") is None
    layout = Layout.of(header, kind="DoubleFloatPixelData" if floats else "PixelData", what=what)
    require_size(layout.columns, layout.rows, what)
    layout.require_memory(what)
    dataset = source.read([*_HEADER, *PIXELS, *_OFFSETS], pixels=True)
    kind = next((name for name in PIXELS if dataset.get(name)), None)
    if kind is None:
        raise ImageError(f"{what}: this DICOM file has no pixel data, or not all of it")
    layout = Layout.of(dataset, kind=kind, what=what)
    syntax = source.syntax_of(dataset, what)
    values, colour = stored_values(
        dataset, layout, decoder or decoder_of(syntax, what), frame, what
    )
    if colour.startswith("MONOCHROME") and (
        first_value(dataset, "PixelPresentation") in ("COLOR", "MIXED")
    ):
        raise ImageError(
            f"{what}: {named('PixelPresentation')} of this DICOM file asks for a supplemental "
            "palette, which is not supported; save it as RGB or as grey"
        )
    return _Decoded(values, colour, dataset, layout, bool(syntax.is_little_endian))


def _read(data: bytes, what: str, window: Window | None, frame: int | None) -> Image.Image:
    read = _decoded(data, what, frame)
    values, dataset, layout, little = read.values, read.dataset, read.layout, read.little_endian
    if not read.colour.startswith("MONOCHROME"):
        return Image.fromarray(
            rgb_levels(values, dataset, layout, read.colour, what, window, little_endian=little)
        )
    grey = grey_levels(
        values, dataset, layout, what, window, frame=frame or 1, little_endian=little
    )
    if read.colour == "MONOCHROME1":
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey).convert("RGB")


@dataclass(frozen=True, eq=False)
class GreyFrame:
    """One grey frame of a DICOM file, before it is windowed.

    Attributes
    ----------
    values : numpy.ndarray
        Shape (rows, columns), after the modality transformation.
    window : tuple of float or None
        (low, high) that `read_dicom` shows; None where the file has a table or a curve instead.
    low_is_white : bool
    hounsfield : bool
        Whether the values are Hounsfield units.
    """

    values: npt.NDArray[Any]
    window: Window | None
    low_is_white: bool
    hounsfield: bool


def read_grey(data: bytes, *, what: str, frame: int | None = None) -> GreyFrame | None:
    """Read the values of one grey frame, of a file that `read_dicom` reads; None for colour.

    Parameters
    ----------
    data, what, frame
        As for `read_dicom`, which warns, and refuses.
    """
    with _quiet([]):
        read = _decoded(data, what, frame)
        if not read.colour.startswith("MONOCHROME"):
            return None
        values, window = grey_values(
            read.values,
            read.dataset,
            read.layout,
            what,
            frame=frame or 1,
            little_endian=read.little_endian,
        )
    unit = str(first_value(read.dataset, "RescaleType") or "").strip().upper()
    tomography = str(first_value(read.dataset, "Modality") or "").strip().upper() == "CT"
    hounsfield = unit == "HU" or (tomography and not unit)
    return GreyFrame(values, window, read.colour == "MONOCHROME1", hounsfield)
