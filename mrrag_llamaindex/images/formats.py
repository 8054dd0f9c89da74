"""Which image formats are read, and the names of those that are not."""

from __future__ import annotations

from mrrag_llamaindex.errors import ImageError

PILLOW_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow opens some forty more. Among them are programs (EPS starts Ghostscript) and formats in
which nobody keeps radiographs, each with a decoder that hostile input could be made for."""

_READABLE = "PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, PPM and DICOM"

# Offset, bytes, name. HEIC and AVIF are told apart below.
_FOREIGN = (
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (4, b"ni2\0", "NIfTI"),
    (0, b"\x5c\x01\0\0", "Analyze or NIfTI"),
    (0, b"\0\0\x01\x5c", "Analyze or NIfTI"),
    (0, b"\x1f\x8b", "gzip, perhaps a NIfTI (.nii.gz)"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"%!PS", "PostScript (EPS)"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"NRRD", "NRRD"),
    (0, b"ObjectType", "MetaImage"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML, perhaps SVG"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_HOW = {
    "NIfTI": "save the slice as PNG or TIFF, or convert the series to DICOM",
    "HEIC": "save it as PNG or JPEG",
    "JPEG": "save it as PNG or TIFF",
}


def not_readable(data: bytes, what: str) -> ImageError:
    """Error for a file of a format that is not read, with its name where it is known.

    Parameters
    ----------
    data : bytes
        The file.
    what : str
        What the image is, for the error message.
    """
    name = foreign_format(data)
    if name is None:
        return ImageError(f"{what}: this is not an image that can be read ({_READABLE})")
    how = next((way for key, way in _HOW.items() if key in name), "save it as PNG or TIFF")
    return ImageError(f"{what}: this is not an image that can be read, but {name}; {how}")


def foreign_format(data: bytes) -> str | None:
    """Name a format that is not read by its first bytes; None if they are not known."""
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"avif", b"avis"):
            return "AVIF"
        return "HEIC" if data[8:12] in _HEIF_BRANDS else "a video or HEIC (ISO media)"
    start = data[:512].lstrip()
    for offset, magic, name in _FOREIGN:
        if data[offset : offset + len(magic)] == magic or (not offset and start.startswith(magic)):
            return name
    return None
