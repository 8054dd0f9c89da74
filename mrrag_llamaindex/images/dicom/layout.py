"""How the pixels of a DICOM image lie, as its header has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import require_memory
from mrrag_llamaindex.images.dicom.elements import first_value, named, whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ONE_SAMPLE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_THREE_SAMPLES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class Layout:
    """How the pixels of a DICOM image lie, checked and with the defaults of what may be absent.

    Attributes
    ----------
    rows, columns, samples, frames : int
    colour : str
        Photometric Interpretation.
    allocated, stored, high : int
        Bits Allocated, Bits Stored, High Bit.
    signed : bool
        Pixel Representation.
    floats : bool
        Whether the pixels are floating-point numbers, which have no bit layout.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    colour: str
    allocated: int
    stored: int
    high: int
    signed: bool
    floats: bool

    @classmethod
    def of(cls, dataset: Dataset, *, kind: str, what: str) -> Layout:
        """Read the header, and complete it in place for pydicom.

        Parameters
        ----------
        dataset : pydicom.dataset.Dataset
        kind : str
            Element that holds the pixels, one of `PIXELS`. Floats have no bit layout.
        what : str
            What the image is, for error messages.

        Raises
        ------
        ImageError
            If a required element is missing, empty or impossible. Names it.
        """
        colour = str(first_value(dataset, "PhotometricInterpretation") or "").strip().upper()
        if not colour:
            raise ImageError(
                f"{what}: {named('PhotometricInterpretation')} of this DICOM file is missing or "
                "empty, so that black and white may be exchanged; set it to what the modality says"
            )
        if colour not in _ONE_SAMPLE + _THREE_SAMPLES:
            raise ImageError(
                f"{what}: {named('PhotometricInterpretation')} of this DICOM file is of a kind "
                "that cannot be converted to RGB; save it as RGB, YBR_FULL or MONOCHROME2"
            )
        expected = 1 if colour in _ONE_SAMPLE else 3
        samples = whole(dataset, "SamplesPerPixel", what, 1, 4, expected)
        if samples != expected:
            raise ImageError(
                f"{what}: {named('SamplesPerPixel')} of this DICOM file is {samples}, which does "
                f"not agree with its {named('PhotometricInterpretation')}"
            )
        if kind != "PixelData":
            allocated = stored = 64 if kind.startswith("Double") else 32
            high, signed = stored - 1, True
            dataset.BitsAllocated = allocated
        else:
            allocated = whole(dataset, "BitsAllocated", what, 1, 64)
            if allocated not in (1, 8, 16, 32):
                raise ImageError(
                    f"{what}: {named('BitsAllocated')} of this DICOM file is {allocated}; "
                    "1, 8, 16 and 32 can be read"
                )
            stored = whole(dataset, "BitsStored", what, 1, allocated)
            high = whole(dataset, "HighBit", what, stored - 1, allocated - 1, stored - 1)
            signed = bool(whole(dataset, "PixelRepresentation", what, 0, 1))
            dataset.PixelRepresentation = int(signed)
            dataset.BitsAllocated, dataset.BitsStored = allocated, stored
        if samples == 3:
            dataset.PlanarConfiguration = whole(dataset, "PlanarConfiguration", what, 0, 1)
        floats = kind != "PixelData"
        frames = frame_count(dataset, what)
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = colour, samples
        dataset.NumberOfFrames = frames
        rows, columns = (whole(dataset, name, what, 1, 65535) for name in ("Rows", "Columns"))
        dataset.Rows, dataset.Columns = rows, columns
        return cls(rows, columns, samples, frames, colour, allocated, stored, high, signed, floats)

    def require_memory(self, what: str) -> None:
        """Refuse an image whose decoding would take more than the limit.

        A frame is held as the decoder gives it and as an array; then come 8 bits and RGB.
        """
        item = max(1, self.allocated // 8)
        require_memory(self.columns, self.rows, self.samples * (2 * item + 1) + 4, what)


def frame_count(dataset: Dataset, what: str) -> int:
    """Return Number of Frames, 1 if it is missing, empty or 0."""
    return max(1, whole(dataset, "NumberOfFrames", what, 0, 2**31 - 1, 1))
