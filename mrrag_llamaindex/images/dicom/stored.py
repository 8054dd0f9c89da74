"""The stored values of one frame of a DICOM image: the bits that High Bit and Bits Stored name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import jpeg_has_end, one_frame, unreadable
from mrrag_llamaindex.images.dicom.elements import named
from mrrag_llamaindex.images.dicom.layout import PIXELS, Layout
from mrrag_llamaindex.images.jpeg import JPEGFrame, require_sound

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

_GDCM = "gdcm"


def decoder_of(syntax: UID, what: str) -> Decoder:
    """Return pydicom's decoder of a transfer syntax.

    Raises
    ------
    ImageError
        If there is none, or a package that it needs is not installed.
    """
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"{what}: the Transfer Syntax UID of this DICOM file is not one of an image that "
            "pydicom knows"
        ) from None
    if not decoder.is_available:
        raise ImageError(
            f"{what}: the pixels of this DICOM file are compressed ({decoder.UID.name}), and no "
            f"decoder for that is installed ({'; '.join(decoder.missing_dependencies)}); "
            'pip install "mrrag-llamaindex[dicom]"'
        )
    return decoder


def stored_values(
    dataset: Dataset, layout: Layout, decoder: Decoder, frame: int | None, what: str
) -> tuple[npt.NDArray[Any], str]:
    """Decode one frame, and take from each sample the bits that hold its value.

    PS3.5, 8.1.1: the value of a sample lies in the Bits Stored bits up to High Bit; the others
    may hold anything, an overlay for example. In JPEG, JPEG-LS and JPEG 2000 that counts for the
    samples of the codestream, where its precision leaves bits over; where it does not, they are
    the values.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        Completed by `Layout.of`, with its pixels.
    layout : Layout
    decoder : pydicom.pixels.decoders.base.Decoder
    frame : int or None
        From 1; None if there must be only one.
    what : str
        What the image is, for error messages.

    Returns
    -------
    values : numpy.ndarray
        Shape (rows, columns) or (rows, columns, 3), in the machine's byte order.
    colour : str
        Photometric Interpretation of the decoded values.

    Raises
    ------
    ImageError
        If there are other frames than expected, or the pixels are damaged or incomplete.
    """
    if not decoder.is_encapsulated:
        _require_length(dataset, layout, what)
    index = one_frame(max(layout.frames, _frames_present(dataset, layout, decoder)), frame, what)
    precision = layout.allocated
    if decoder.is_encapsulated:
        precision = _precision(_frame_data(dataset, layout, index), decoder.UID, layout, what)
    plugin = _plugin(decoder, precision, what)
    # GDCM masks samples by Bits Stored as if they lay at the lower end, and is told that all count.
    options = {"bits_stored": precision} if plugin == _GDCM else {}
    try:
        values, properties = decoder.as_array(
            dataset,
            index=index,
            raw=True,
            decoding_plugin=plugin,
            correct_unused_bits=False,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
    except RuntimeError:
        others = "; ".join(decoder.missing_dependencies)
        raise ImageError(
            f"{what}: the compressed pixels of this DICOM file ({decoder.UID.name}) are damaged or "
            "incomplete" + (f", or need a decoder that is not installed ({others})" * bool(others))
        ) from None
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind in "iu" and layout.allocated > 1 and precision >= layout.stored:
        low = layout.high + 1 - layout.stored if precision > layout.stored else 0
        if low + layout.stored > precision:
            raise ImageError(
                f"{what}: {named('HighBit')} of this DICOM file is {layout.high}, but its "
                f"compressed samples have {precision} bits"
            )
        _keep_bits(values, low, layout.stored, layout.signed)
    return values, str(properties["photometric_interpretation"])


def _require_length(dataset: Dataset, layout: Layout, what: str) -> None:
    """Refuse pixels that are fewer than the header says."""
    keyword = next(name for name in PIXELS if dataset.get(name))
    present = len(dataset[keyword].value)
    samples = 2 if layout.colour == "YBR_FULL_422" else layout.samples
    bits = layout.rows * layout.columns * samples * layout.allocated
    needed = -(-bits * layout.frames // 8)
    if present < needed:
        raise ImageError(
            f"{what}: {named(keyword)} of this DICOM file holds {present:,} bytes, and its header "
            f"asks for {needed:,}: the file is incomplete, or its Rows, Columns, Number of Frames "
            "or Bits Allocated are wrong"
        )


def _keep_bits(values: npt.NDArray[Any], low: int, bits: int, signed: bool) -> None:
    """Replace each value by the ``bits`` bits from ``low`` upwards, in place."""
    width = 8 * values.dtype.itemsize
    if bits == width:
        return
    field = values.view(f"u{values.dtype.itemsize}")
    field >>= low
    field &= (1 << bits) - 1
    if signed:
        sign = 1 << (bits - 1)
        field ^= sign
        field -= sign  # wraps to the two's complement


def _frames_present(dataset: Dataset, layout: Layout, decoder: Decoder) -> int:
    """Count the frames that the data holds, which may be more than the header says."""
    from pydicom.encaps import generate_fragmented_frames

    if layout.frames > 1 or "PixelData" not in dataset:
        return layout.frames
    if decoder.is_encapsulated:
        parts = generate_fragmented_frames(
            dataset.PixelData, number_of_frames=layout.frames, extended_offsets=_offsets(dataset)
        )
        return sum(1 for _ in parts)
    bits = layout.rows * layout.columns * layout.samples * layout.allocated
    if layout.colour == "YBR_FULL_422":
        return 1
    return max(1, int(len(dataset.PixelData) // (bits / 8)))


def _offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    names = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    tables = [dataset.get(name) for name in names]
    return (tables[0], tables[1]) if all(tables) else None


def _frame_data(dataset: Dataset, layout: Layout, index: int) -> bytes:
    from pydicom.encaps import get_frame

    return bytes(
        get_frame(
            dataset.PixelData,
            index,
            number_of_frames=layout.frames,
            extended_offsets=_offsets(dataset),
        )
    )


def _precision(data: bytes, syntax: UID, layout: Layout, what: str) -> int:
    """Bits per sample of a codestream, checked to be whole as far as that can be."""
    from pydicom.pixels.utils import get_j2k_parameters
    from pydicom.uid import RLELossless

    if syntax == RLELossless:
        return layout.allocated
    if not jpeg_has_end(data):
        raise unreadable(what, EOFError())
    if "JPEG 2000" in syntax.name or "JPEG2000" in syntax.name:
        return int(get_j2k_parameters(data).get("precision", layout.stored))
    frame = JPEGFrame.of(data)
    if frame is None:
        raise unreadable(what, SyntaxError())
    if _is_baseline(syntax) and frame.precision == 8:
        require_sound(data, what)
    return frame.precision


def _is_baseline(syntax: UID) -> bool:
    from pydicom.uid import JPEGBaseline8Bit

    return syntax == JPEGBaseline8Bit


def _plugin(decoder: Decoder, precision: int, what: str) -> str:
    """Return pydicom's name of the decoder for a compression, ``""`` for whatever there is.

    Always the same: others round differently, and would give another image wherever they happen
    to be installed.
    """
    from pydicom import uid

    if uid.JPEGExtended12Bit == decoder.UID and precision > 8:
        if "pylibjpeg" in decoder.available_plugins:
            return "pylibjpeg"
        raise ImageError(
            f"{what}: the pixels of this DICOM file are a JPEG of {precision} bits "
            f"({decoder.UID.name}), and no decoder for that is installed: save them without "
            "compression, as JPEG Lossless or as JPEG 2000, or install pylibjpeg-libjpeg (GPL)"
        )
    plugins = {
        uid.JPEGBaseline8Bit: "pillow",
        uid.JPEGExtended12Bit: "pillow",
        uid.JPEGLossless: _GDCM,
        uid.JPEGLosslessSV1: _GDCM,
        uid.JPEGLSLossless: "pyjpegls",
        uid.JPEGLSNearLossless: "pyjpegls",
        uid.JPEG2000Lossless: "pylibjpeg",
        uid.JPEG2000: "pylibjpeg",
    }
    name = plugins.get(decoder.UID, "")
    return name if name in decoder.available_plugins else ""
