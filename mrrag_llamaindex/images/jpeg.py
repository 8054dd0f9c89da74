"""What a JPEG says of itself, and whether it is whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrrag_llamaindex.errors import ImageError

# Baseline, extended, progressive; the last two with arithmetic coding.
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
_PROGRESSIVE = (0xC2, 0xCA)
_LS_FRAME = 0xF7
_SCAN, _END = 0xDA, 0xD9
_ALONE = (0x01, 0xD8)  # markers without a length, beside the restarts
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What ends the data of a scan: neither a stuffed byte nor a restart."""


@dataclass(frozen=True)
class JPEGFrame:
    """The frame header of a JPEG or JPEG-LS.

    Attributes
    ----------
    marker : int
        Second byte of the marker, which tells the process: 0xC0 baseline, 0xC3 lossless.
    precision : int
        Bits per sample.
    """

    marker: int
    precision: int

    @classmethod
    def of(cls, data: bytes) -> JPEGFrame | None:
        """Find the frame header; None if there is none."""
        place = 2
        while place + 5 <= len(data) and data[place] == 0xFF:
            marker = data[place + 1]
            if marker == 0xFF:  # fill byte
                place += 1
            elif (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES) or marker == _LS_FRAME:
                return cls(marker, data[place + 4])
            else:
                place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        return None


def require_known_kind(data: bytes, what: str) -> None:
    """Refuse a JPEG of a kind that is not read outside DICOM.

    Parameters
    ----------
    data : bytes
        The file; anything but a JPEG passes.
    what : str
        What the image is, for error messages.

    Raises
    ------
    ImageError
        If it has other than 8 bits, or is lossless, hierarchical or a JPEG-LS. Names the kind.
    """
    frame = JPEGFrame.of(data) if data[:2] == b"\xff\xd8" else None
    if frame is None or (frame.precision == 8 and frame.marker in _DECODED):
        return
    if frame.marker == _LS_FRAME:
        kind = "a JPEG-LS"
    elif frame.marker not in _DECODED:
        kind = "a lossless or hierarchical JPEG"
    else:
        kind = f"a JPEG of {frame.precision} bits"
    raise ImageError(f"{what}: {kind} cannot be read outside DICOM; save it as PNG or TIFF")


def require_sound(data: bytes, what: str) -> None:
    """Refuse a JPEG about which its decoder would only warn.

    libjpeg shows something for almost any damage: grey, or the wrong half of another place. Pillow
    does not pass its warnings on, so the data is run through libjpeg-turbo once more, strictly,
    at an eighth of the size.

    Parameters
    ----------
    data : bytes
        The file, of 8 bits per sample. What follows its end marker is ignored.
    what : str
        What the image is, for error messages.

    Raises
    ------
    ImageError
        If the data is truncated, has bytes too many, or codes that do not exist; if a progressive
        JPEG lacks scans: it would be blurred, and no decoder warns of it.
    """
    import simplejpeg

    try:
        frame = JPEGFrame.of(data)
        if frame is not None and frame.marker in _PROGRESSIVE and not _has_every_scan(data):
            raise ValueError
        colours = simplejpeg.decode_jpeg_header(data, strict=True)[2]
        target = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colours, "RGB")
        simplejpeg.decode_jpeg(
            data, target, fastdct=True, fastupsample=True, min_height=1, min_width=1
        )
    except ValueError:
        raise ImageError(
            f"{what}: the JPEG data is damaged or incomplete; copy or export it again"
        ) from None


def _has_every_scan(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG send every coefficient down to its last bit.

    ITU-T T.81, G.1: a scan sends coefficients Ss to Se of its components down to bit Al.
    """
    missing: dict[int, set[int]] = {}
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        place = found.start()
        marker = data[place + 1]
        if marker == _END:
            break
        if marker in _ALONE:
            place += 2
            continue
        content = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]
        if marker in _PROGRESSIVE:
            missing = {component: set(range(64)) for component in content[6::3]}
        elif marker == _SCAN:
            first, last, bits = content[-3:]
            if not bits & 0x0F:
                for component in content[1:-3:2]:
                    missing.get(component, set()).difference_update(range(first, last + 1))
        place += 4 + len(content)
    return not any(missing.values())
