"""What every image reader refuses, in the same words."""

from __future__ import annotations

import io

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError


def require_size(width: int, height: int, what: str) -> None:
    """Refuse an image of an impossible size, before it is decoded.

    Parameters
    ----------
    width, height : int
        Pixels, as the header says.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If a side is below `defaults.MIN_IMAGE_SIDE` or the area above `defaults.MAX_IMAGE_PIXELS`.
    """
    if width * height > defaults.MAX_IMAGE_PIXELS:
        raise too_large(what)
    if min(width, height) < defaults.MIN_IMAGE_SIDE:
        raise ImageError(
            f"{what}: {width} x {height} pixels is too small to be a study "
            f"(at least {defaults.MIN_IMAGE_SIDE} on each side)"
        )


def require_complete(data: bytes, image_format: str | None, what: str) -> None:
    """Refuse a truncated PNG or JPEG without decoding it.

    For use where the application has set `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`, which makes Pillow
    fill the missing part with grey.

    Parameters
    ----------
    data : bytes
        The file.
    image_format : str or None
        Pillow's name of the format. Only PNG, JPEG and MPO are checked.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If PNG's checksums or JPEG's end marker say that something is missing.
    """
    try:
        if image_format == "PNG":
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
        elif image_format in ("JPEG", "MPO") and not jpeg_has_end(data):
            raise EOFError
    except Exception as error:
        raise unreadable(what, error) from None


def jpeg_has_end(data: bytes) -> bool:
    """Whether the last scan of a JPEG is followed by the end marker.

    The marker cannot occur inside the compressed data, of JPEG as of JPEG 2000 and JPEG-LS.
    """
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def several_frames(frames: int, what: str) -> ImageError:
    """Error for a file that holds more than one picture."""
    return ImageError(
        f"{what}: the file holds {frames} frames; choose one and save it as a single image"
    )


def too_large(what: str) -> ImageError:
    """Error for an image that would exhaust memory."""
    return ImageError(
        f"{what}: it claims more pixels than any radiograph has, which exhausts memory when "
        f"decoded (limit {defaults.MAX_IMAGE_PIXELS:,}); scale it down first"
    )


def unreadable(what: str, error: BaseException) -> ImageError:
    """Error for a file that a decoder gave up on.

    The message names only the kind of ``error``: its text may hold a path or a value of the file.
    """
    return ImageError(
        f"{what}: the file is damaged or incomplete and cannot be decoded ({cause(error)})"
    )


def cause(error: BaseException) -> str:
    """Name the kind of an error: the system's words where it has them, else the class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
