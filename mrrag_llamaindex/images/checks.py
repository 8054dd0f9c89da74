"""What every image reader refuses, in the same words."""

from __future__ import annotations

import io

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError


class ImageWarning(UserWarning):
    """An image was read with a step that its file leaves open or states wrongly."""


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


def one_frame(frames: int, frame: int | None, what: str) -> int:
    """Return the place, from 0, of the frame to read.

    Parameters
    ----------
    frames : int
        How many there are.
    frame : int or None
        Which is asked for, from 1.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If there are several and none is asked for, or the one asked for does not exist.
    """
    if frame is None and frames > 1:
        raise ImageError(
            f"{what}: the file holds {frames} frames; choose one and save it as a single image, "
            "or give its number, from 1, as frame=, or --frame on the command line"
        )
    if frame is not None and frame > frames:
        raise ImageError(
            f"{what}: the file holds {frames} frame{'s' * (frames > 1)}; there is no frame {frame}"
        )
    return (frame or 1) - 1


def checked_frame(frame: int | None, what: str) -> int | None:
    """Return a frame's number, from 1, or None.

    Raises
    ------
    ImageError
        If it is not a whole number from 1.
    """
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int) or frame < 1):
        raise ImageError(f"{what}: a frame is a whole number from 1, not {frame!r}")
    return frame


def require_memory(width: int, height: int, bytes_per_pixel: float, what: str) -> None:
    """Refuse an image whose decoding would take more memory than is allowed, before it begins.

    Parameters
    ----------
    width, height : int
        Pixels, as the header says.
    bytes_per_pixel : float
        Of everything that is held at once: what the decoder needs and gives, and the steps to RGB.
    what : str
        What the image is, for the error message.

    Raises
    ------
    ImageError
        If it is more than `defaults.MAX_DECODING_BYTES`.
    """
    needed = int(width * height * bytes_per_pixel)
    if needed > defaults.MAX_DECODING_BYTES:
        raise needs_memory(f"decoding its {width} x {height} pixels", needed, what)


def needs_memory(step: str, needed: int, what: str) -> ImageError:
    """Error for a step that would take more memory than is allowed."""
    return ImageError(
        f"{what}: {step} takes about {needed / 2**20:,.0f} MiB of memory, more than any radiograph "
        f"(limit {defaults.MAX_DECODING_BYTES / 2**20:,.0f} MiB); scale it down first"
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
    if isinstance(error, MemoryError):
        return ImageError(f"{what}: this machine has not enough memory left to decode it")
    return ImageError(
        f"{what}: the file is damaged or incomplete and cannot be decoded ({cause(error)})"
    )


def wholly_transparent(what: str) -> ImageError:
    """Error for an image of which nothing would be seen: on black, it is black."""
    return ImageError(
        f"{what}: every pixel is transparent, so that nothing would be seen; save it without "
        "transparency (an alpha channel)"
    )


def cause(error: BaseException) -> str:
    """Name the kind of an error: the system's words where it has them, else the class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
