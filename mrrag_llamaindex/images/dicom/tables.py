"""Lookup tables of DICOM: Modality LUT, VOI LUT, palettes (PS3.3, C.7.6.3.1.5, C.11.1, C.11.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.dicom.elements import named

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, eq=False)
class LookupTable:
    """What each input value becomes.

    pydicom's own functions take the depth from the descriptor, which real files get wrong: they
    refuse 12 bits and wrap past 256 entries of 8. Here the table is as deep as what it holds.

    Attributes
    ----------
    first : int
        The input that the first entry stands for; what is below it takes the first entry, and
        what is beyond the last takes the last.
    entries : numpy.ndarray
        Shape (n,), int64, from 0 to 65,535.
    stated_bits : int
        Bits per entry as the descriptor has them.
    """

    first: int
    entries: npt.NDArray[np.int64]
    stated_bits: int

    @classmethod
    def read(cls, item: Dataset, what: str, little_endian: bool, colour: str = "") -> LookupTable:
        """Read the table of a sequence item, or of one colour of a palette.

        Parameters
        ----------
        item : pydicom.dataset.Dataset
        what : str
            What the image is, for error messages.
        little_endian : bool
            Byte order of the file, in which data without a value representation is left.
        colour : str
            ``"Red"``, ``"Green"`` or ``"Blue"`` for a palette.

        Raises
        ------
        ImageError
            If descriptor or data is missing, empty or too short. Names the element.
        """
        descriptor = f"{colour}PaletteColorLookupTableDescriptor" if colour else "LUTDescriptor"
        data = f"{colour}PaletteColorLookupTableData" if colour else "LUTData"
        count, first, bits = descriptor_of(item, descriptor, what)
        raw = item.get(data)
        if raw is None or (not isinstance(raw, int) and not len(raw)):
            raise ImageError(f"{what}: {named(data)} of this DICOM file is missing or empty")
        entries = _unpacked(raw, count, bits, little_endian)
        if len(entries) < count:
            raise ImageError(
                f"{what}: {named(data)} of this DICOM file holds {len(entries)} entries, fewer "
                f"than the {count} of {named(descriptor)}"
            )
        return cls(first, entries[:count], bits)

    @property
    def depth(self) -> int:
        """Bits that the largest entry needs."""
        return max(1, int(self.entries.max()).bit_length())

    def apply(self, values: npt.NDArray[Any], *, signed: bool = False) -> npt.NDArray[np.int64]:
        """Look the values up, those that are not whole rounded.

        Parameters
        ----------
        values : numpy.ndarray
            Any shape, finite.
        signed : bool
            Whether some input of the image is negative. The descriptor's sign is ambiguous, and
            a first input of 32,768 or more is then a negative one.
        """
        first = self.first - 2**16 if signed and self.first >= 2**15 else self.first
        index = np.rint(values) if values.dtype.kind == "f" else values.astype(np.int64)
        places = np.clip(index - first, 0, len(self.entries) - 1).astype(np.int64)
        looked_up: npt.NDArray[np.int64] = self.entries[places]
        return looked_up


def descriptor_of(item: Dataset, keyword: str, what: str) -> tuple[int, int, int]:
    """Return number of entries, first input and bits of a lookup table's descriptor.

    Raises
    ------
    ImageError
        If they are not three whole numbers. Names the element.
    """
    try:
        count, first, bits = (int(value) for value in item[keyword].value)
    except (KeyError, TypeError, ValueError):
        raise ImageError(
            f"{what}: {named(keyword)} of this DICOM file is missing or not three numbers"
        ) from None
    # The number may have been read as signed, and 0 stands for 65,536.
    return count % 2**16 or 2**16, first, bits


def _unpacked(raw: Any, count: int, bits: int, little_endian: bool) -> npt.NDArray[np.int64]:
    if isinstance(raw, (bytes, bytearray)):
        words = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2" if little_endian else ">u2")
    else:
        words = np.atleast_1d(np.asarray(raw, dtype=np.int64)).astype(np.uint16)
    if len(words) < count and bits <= 8 and 2 * len(words) >= count:
        # Two entries of 8 bits in a word, the first in the lower half.
        return words.astype("<u2").view(np.uint8).astype(np.int64)
    return words.astype(np.int64)
