"""DICOM files as they come: with or without preamble, meta group, transfer syntax; deflated."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import ImageWarning, unreadable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

# Value representations that the first elements of a data set (groups 2 and 8) have.
_FIRST_VR = {b"UL", b"CS", b"UI", b"DA", b"TM", b"OB", b"SH", b"LO", b"DT", b"SQ", b"ST", b"PN"}
_EXPLICIT_META = b"\2\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"


def is_dicom(data: bytes) -> bool:
    """Whether a file has DICOM's prefix, or begins as a data set without one does."""
    if data[128:132] == b"DICM":
        return True
    if data[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    order: Literal["big", "little"] = "big" if data[0] == 0 else "little"
    element = int.from_bytes(data[2:4], order)
    length = int.from_bytes(data[4:8], order)
    return data[4:6] in _FIRST_VR or (order == "little" and element < 0x20 and length <= 256)


@dataclass(frozen=True)
class DicomSource:
    """A DICOM file, inflated if need be.

    Attributes
    ----------
    content : bytes
        What pydicom reads.
    syntax : pydicom.uid.UID or None
        How it is encoded, if it says so.
    """

    content: bytes
    syntax: UID | None

    @classmethod
    def of(cls, data: bytes, what: str) -> DicomSource:
        """Read the meta group, and inflate what is deflated, as far as memory is allowed.

        Raises
        ------
        ImageError
            If the inflated data set is damaged, or larger than `defaults.MAX_DECODING_BYTES`.
        """
        from pydicom.filereader import read_dataset
        from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

        stream = io.BytesIO(data)
        stream.seek(132 if data[128:132] == b"DICM" else 0)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        syntax = meta.get("TransferSyntaxUID") or None
        if syntax != DeflatedExplicitVRLittleEndian:
            return cls(data, syntax)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        limit = defaults.MAX_DECODING_BYTES // 2
        inflated = inflater.decompress(data[stream.tell() :], limit)
        if inflater.unconsumed_tail:
            raise ImageError(
                f"{what}: this DICOM file is compressed as a whole (deflated) and holds more than "
                f"{limit / 2**20:,.0f} MiB; save it without that, one frame only"
            )
        if not inflater.eof:
            raise unreadable(what, EOFError())
        return cls(bytes(128) + b"DICM" + _EXPLICIT_META + inflated, ExplicitVRLittleEndian)

    def read(self, names: Collection[str], *, pixels: bool) -> Dataset:
        """Read the named elements, and no others.

        Parameters
        ----------
        names : collection of str
            Keywords of the elements.
        pixels : bool
            Whether to read on to the pixel data.
        """
        from pydicom import dcmread

        return dcmread(
            io.BytesIO(self.content),
            force=True,
            stop_before_pixels=not pixels,
            specific_tags=[*names],
        )

    def syntax_of(self, dataset: Dataset, what: str) -> UID:
        """Return the transfer syntax; where the file does not say, the one as which it parses.

        Parameters
        ----------
        dataset : pydicom.dataset.Dataset
            The data set with its pixels, in whose meta group the syntax is completed.
        what : str
            What the image is, for messages.

        Raises
        ------
        ImageError
            If the file does not say, and its pixels are compressed.

        Warns
        -----
        ImageWarning
            If the file does not say.
        """
        from pydicom import uid

        if self.syntax is not None:
            return self.syntax
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise ImageError(
                f"{what}: this DICOM file does not say how it is encoded (no Transfer Syntax UID), "
                "and its pixels are compressed; export it again as a DICOM file with a meta group"
            )
        implicit, little = dataset.original_encoding
        if not little:
            syntax = uid.ExplicitVRBigEndian
        else:
            syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
        warnings.warn(
            f"{what}: this DICOM file does not say how it is encoded (no Transfer Syntax UID); "
            f"it was read as {syntax.name}, as which it parses",
            ImageWarning,
            stacklevel=2,
        )
        return syntax
