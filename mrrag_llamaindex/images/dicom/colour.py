"""Map the stored values of a DICOM colour image to RGB of 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.depth import Window, in_bands, to_uint8
from mrrag_llamaindex.images.dicom.elements import named
from mrrag_llamaindex.images.dicom.tables import LookupTable, descriptor_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from mrrag_llamaindex.images.dicom.layout import Layout

_COLOURS = ("Red", "Green", "Blue")


def rgb_levels(
    stored: npt.NDArray[Any],
    dataset: Dataset,
    layout: Layout,
    colour: str,
    what: str,
    window: Window | None = None,
    *,
    little_endian: bool = True,
) -> npt.NDArray[np.uint8]:
    """Convert a colour image.

    Parameters
    ----------
    stored : numpy.ndarray
        Shape (rows, columns, 3), or (rows, columns) for a palette.
    dataset : pydicom.dataset.Dataset
        The header, for its palette.
    layout : Layout
    colour : str
        Photometric Interpretation of ``stored``.
    what : str
        What the image is, for error messages.
    window : tuple of float, optional
        (low, high) in 8-bit levels, for each channel.
    little_endian : bool
        Byte order of the file.

    Returns
    -------
    numpy.ndarray
        uint8, shape (rows, columns, 3).

    Raises
    ------
    ImageError
        If the palette is incomplete, or the samples are signed or deeper than their colour space
        allows. Names the element.
    """
    from pydicom.pixels.processing import convert_color_space

    if colour == "PALETTE COLOR":
        table, depth = _palette(dataset, what, little_endian)
        signed = bool(stored.min() < 0)
        tables = [LookupTable(table[0].first, part.entries, depth) for part in table]
        levels = in_bands(
            stored,
            lambda band: np.stack(
                [to_uint8(t.apply(band, signed=signed), 0, 2**depth - 1) for t in tables], axis=-1
            ),
            channels=3,
        )
    elif layout.signed:
        raise ImageError(
            f"{what}: {named('PixelRepresentation')} of this DICOM file says that its colours may "
            "be negative; set it to 0 if they are not"
        )
    elif colour != "RGB":
        if layout.stored != 8 or colour not in ("YBR_FULL", "YBR_FULL_422"):
            raise ImageError(
                f"{what}: the colours of this DICOM file are {colour} with {layout.stored} bits "
                f"({named('BitsStored')}), which cannot be converted to RGB; save it as RGB"
            )
        levels = in_bands(
            stored.astype(np.uint8, copy=False),
            lambda band: convert_color_space(band, "YBR_FULL", "RGB"),
            channels=3,
        )
    elif stored.dtype == np.uint8 and layout.stored == 8:
        levels = stored
    else:
        levels = to_uint8(stored, 0, 2**layout.stored - 1)
    return levels if window is None else to_uint8(levels, *window)


def _palette(dataset: Dataset, what: str, little_endian: bool) -> tuple[list[LookupTable], int]:
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        tables = _segmented(dataset, what)
    else:
        tables = [LookupTable.read(dataset, what, little_endian, name) for name in _COLOURS]
    return tables, max(8, *(table.depth for table in tables))


def _segmented(dataset: Dataset, what: str) -> list[LookupTable]:
    """Expand segments through pydicom, which looks up in as many bits as an entry has."""
    from pydicom.pixels.processing import apply_color_lut

    keyword = "RedPaletteColorLookupTableDescriptor"
    count, first, bits = descriptor_of(dataset, keyword, what)
    if bits not in (8, 16) or count > 2**bits:
        raise ImageError(
            f"{what}: {named(keyword)} of this DICOM file asks for {count} entries of {bits} bits, "
            "which cannot be read from segments"
        )
    entries = apply_color_lut(np.arange(first, first + count), dataset).astype(np.int64)
    return [LookupTable(first, entries[:, channel], bits) for channel in range(3)]
