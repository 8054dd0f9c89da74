"""Read one DICOM image as a person would see it: rescaled, windowed, with the right polarity.

Every step is pydicom's own (`pydicom.pixels`), an optional dependency: the extra ``dicom``.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import jpeg_has_end, require_size, several_frames, unreadable
from mrrag_llamaindex.images.depth import Window, to_uint8
from mrrag_llamaindex.images.dicom_grey import grey_levels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder

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
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PixelPresentation",
    "RedPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_PIXELS = ["PixelData", "FloatPixelData", "DoubleFloatPixelData"]
_OFFSETS = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]

_silence = threading.Lock()


def is_dicom(stream: BinaryIO) -> bool:
    """Whether a file has DICOM's prefix, "DICM" at byte 128. The stream is left at its start."""
    stream.seek(128)
    prefix = stream.read(4)
    stream.seek(0)
    return prefix == b"DICM"


def read_dicom(stream: BinaryIO, *, what: str, window: Window | None = None) -> Image.Image:
    """Read a single-frame DICOM image.

    Grey values go through the modality lookup table or rescale slope and intercept, then through
    the first window (lookup table, else LINEAR, LINEAR_EXACT or SIGMOID) of the file, then, for
    MONOCHROME1, through an inversion. Without a window the range of the values is taken, pixel
    padding left out. Colour becomes RGB. The order is that of DICOM PS3.4, annex N.2.

    Ignored are pixels that are not square (Pixel Spacing, Pixel Aspect Ratio), overlays, ICC
    profiles, Presentation LUT Shape (in an image it repeats the polarity) and presentation states.

    Parameters
    ----------
    stream : BinaryIO
        The whole file, at its start.
    what : str
        What the image is, for error messages. The only values of the file in them are the numbers
        of pixels and frames and the name of the compression.
    window : tuple of float, optional
        (low, high) in units after the rescale, for example HU, instead of the file's window.
        For colour, in 8-bit levels.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, Columns x Rows.

    Raises
    ------
    ImageError
        If pydicom is not installed; if the file holds no image or several frames, is damaged or
        truncated, too small or too large; if no decoder for its compression is installed; if its
        own window or its colour space cannot be applied.
    """
    try:
        from pydicom import pixels  # noqa: F401
    except ImportError:
        raise ImageError(
            f"{what}: this is a DICOM file, which needs pydicom 3 or newer; "
            'pip install "mrrag-llamaindex[dicom]"'
        ) from None
    with _quiet():
        try:
            return _read(stream, what, window)
        except ImageError:
            raise
        # A damaged file makes pydicom raise almost anything; each means the same to the caller.
        except Exception as error:
            raise unreadable(what, error) from None


@contextmanager
def _quiet() -> Iterator[None]:
    # pydicom writes values that it cannot read into warnings and its log, and the path into its
    # log. The lock keeps two threads from restoring the warning filters in the wrong order.
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("pydicom")]
    loggers = [logging.getLogger(name) for name in names]
    with _silence, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addFilter(from_elsewhere)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(from_elsewhere)


def _read(stream: BinaryIO, what: str, window: Window | None) -> Image.Image:
    from pydicom import dcmread

    decoder = _decoder(stream, what)
    stream.seek(0)
    header = dcmread(stream, stop_before_pixels=True, specific_tags=[*_HEADER])
    if "Rows" not in header or "Columns" not in header:
        raise ImageError(
            f"{what}: this DICOM file holds no image; it is a report, a plan or the like, or it "
            "is incomplete"
        )
    if (frames := int(header.get("NumberOfFrames") or 1)) > 1:
        raise several_frames(frames, what)
    require_size(int(header.Columns), int(header.Rows), what)
    stream.seek(0)
    dataset = dcmread(stream, specific_tags=[*_HEADER, *_PIXELS, *_OFFSETS])
    if not any(name in dataset for name in _PIXELS):
        raise ImageError(f"{what}: this DICOM file has no pixel data, or not all of it")
    values, properties = _decode(dataset, decoder, what)
    # The header may count fewer frames than there are.
    if (frames := int(properties["number_of_frames"])) > 1:
        raise several_frames(frames, what)
    colour = str(properties["photometric_interpretation"])
    if not colour.startswith("MONOCHROME"):
        return Image.fromarray(_rgb(values, dataset, colour, what, window))
    grey = grey_levels(values, dataset, what, window)
    return Image.fromarray(255 - grey if colour == "MONOCHROME1" else grey).convert("RGB")


def _decoder(stream: BinaryIO, what: str) -> Decoder:
    from pydicom.filereader import read_dataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = meta.get("TransferSyntaxUID")
    if not syntax:
        raise ImageError(
            f"{what}: this DICOM file does not say how it is encoded (no Transfer Syntax UID)"
        )
    # Its size is unknown until all of it is in memory.
    if syntax == DeflatedExplicitVRLittleEndian:
        raise ImageError(
            f"{what}: this DICOM file is compressed as a whole (deflated), which is not supported; "
            "save it without, or with only its pixels compressed"
        )
    try:
        return get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"{what}: the Transfer Syntax UID of this DICOM file is not one of an image that "
            "pydicom knows"
        ) from None


def _decode(
    dataset: Dataset, decoder: Decoder, what: str
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    name = decoder.UID.name
    if not decoder.is_available:
        raise ImageError(
            f"{what}: the pixels of this DICOM file are compressed ({name}), and no decoder for "
            f"that is installed ({'; '.join(decoder.missing_dependencies)})"
        )
    if ImageFile.LOAD_TRUNCATED_IMAGES and "JPEG" in name and not jpeg_has_end(dataset.PixelData):
        raise unreadable(what, EOFError())
    try:
        return decoder.as_array(dataset)
    except RuntimeError:
        others = "; ".join(decoder.missing_dependencies)
        raise ImageError(
            f"{what}: the compressed pixels of this DICOM file ({name}) are damaged or incomplete"
            + (f", or need a decoder that is not installed ({others})" if others else "")
        ) from None


def _rgb(
    values: npt.NDArray[Any], dataset: Dataset, colour: str, what: str, window: Window | None
) -> npt.NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    if colour == "PALETTE COLOR":
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        values = apply_color_lut(values, dataset)[..., :3]
    elif colour == "RGB":
        bits = dataset.BitsStored
    else:
        raise ImageError(
            f"{what}: the colours of this DICOM file are of a kind that cannot be converted to "
            "RGB; save it as RGB or YBR_FULL"
        )
    eight_bits = values.dtype == np.uint8 and bits == 8
    levels = values if eight_bits else to_uint8(values, 0, 2**bits - 1)
    return levels if window is None else to_uint8(levels, *window)
