"""Read an image so that what follows can rely on it: complete, RGB, upright, of a sane size."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import (
    cause,
    require_complete,
    require_size,
    several_frames,
    too_large,
    unreadable,
)
from mrrag_llamaindex.images.depth import Window, checked_window, to_uint8, value_range
from mrrag_llamaindex.images.dicom import is_dicom, read_dicom

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or an image that is already open."""


def load_image(
    source: ImageSource, *, what: str = "image", window: Window | None = None
) -> Image.Image:
    """Read an image completely and bring it into one form.

    DICOM files are read through pydicom, see `mrrag_llamaindex.images.dicom.read_dicom`; everything
    else through Pillow. Transparency is composited on black, the background of a film. Modes
    deeper than 8 bits (``I;16``, ``I``, ``F``) are mapped linearly, by default from their own
    minimum..maximum, to 0..255, because a plain conversion clips everything above 255 to white;
    a TIFF of that depth in which zero is white is inverted. EXIF orientation is applied.

    Where a file has 16 bits per channel in colour, or in grey with an alpha channel, Pillow keeps
    the upper 8 (``value >> 8``): no window can bring back the rest.

    Parameters
    ----------
    source : ImageSource
        A path, the bytes of an image file, or a `PIL.Image.Image` (left as it is; a copy is
        returned).
    what : str
        What the image is, for error messages, for example ``"query image"``. Neither the path
        nor anything else of the source appears in a message.
    window : tuple of float, optional
        (low, high): the values that become black and white, linearly between, clipped beyond. In
        stored values (before the inversion, where zero is white); for 8-bit images, on each
        channel of the RGB image; for DICOM, in units after the rescale, for example HU.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, decoded to the last pixel, no side below `defaults.MIN_IMAGE_SIDE`.

    Raises
    ------
    ImageError
        If ``window`` is not two finite numbers, low below high. If the source is missing, empty,
        not an image, truncated, smaller than `defaults.MIN_IMAGE_SIDE`, larger than
        `defaults.MAX_IMAGE_PIXELS` (or than the limit of Pillow itself, where that is lower) or
        `defaults.MAX_IMAGE_BYTES`, or holds several frames. If it is a DICOM file and pydicom is
        not installed. The message begins with ``what``.
    """
    window = checked_window(window, what)
    if isinstance(source, Image.Image):
        return _decode(source, what, window)
    stream = io.BytesIO(read_bytes(source, what=what))
    try:
        if is_dicom(stream):
            return read_dicom(stream, what=what, window=window)
        image = Image.open(stream)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise too_large(what) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{what}: this is not an image that can be read (PNG, JPEG, TIFF, DICOM and others)"
        ) from None
    except Exception as error:
        raise unreadable(what, error) from None
    with image:
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            require_complete(stream.getvalue(), image.format, what)
        return _decode(image, what, window)


def image_digest(source: ImageSource, *, what: str = "image") -> str:
    """Digest by which an image is recognised again.

    Parameters
    ----------
    source : ImageSource
        For a path or bytes, the file's bytes are hashed, without decoding them; for an open
        image its mode, size, palette and pixels. The two kinds never agree.
    what : str
        As in `load_image`.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.

    Raises
    ------
    ImageError
        If the source is missing, empty or cannot be read.
    """
    if not isinstance(source, Image.Image):
        return hashlib.sha256(read_bytes(source, what=what)).hexdigest()
    try:
        pixels = source.tobytes()
    except Exception as error:
        raise unreadable(what, error) from None
    digest = hashlib.sha256(f"{source.mode} {source.width}x{source.height} ".encode())
    if source.palette is not None:
        digest.update(bytes(source.palette.palette))
    digest.update(pixels)
    return digest.hexdigest()


def read_bytes(source: str | os.PathLike[str] | bytes, *, what: str = "image") -> bytes:
    """Read an image file completely, without decoding it.

    Parameters
    ----------
    source : path or bytes
    what : str
        As in `load_image`.

    Raises
    ------
    ImageError
        If the source is missing, empty, no file, larger than `defaults.MAX_IMAGE_BYTES` or cannot
        be read, or is a web address.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        if not data:
            raise ImageError(f"{what}: the data is empty (0 bytes)")
        return data
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"{what}: a path, bytes or a PIL image is needed, not {type(source).__name__}"
        )
    if str(source).startswith(("http://", "https://")):
        raise ImageError(f"{what}: this is a web address; download the file and give its path")
    # Errors are raised from None throughout: those of the system and of Pillow name the path.
    try:
        path = Path(source)
        if not path.exists():
            raise ImageError(f"{what}: the file does not exist")
        if not path.is_file():
            raise ImageError(f"{what}: this is a folder or a device, not a file")
        if path.stat().st_size > defaults.MAX_IMAGE_BYTES:
            raise ImageError(
                f"{what}: the file is larger than any image that can be read "
                f"(limit {defaults.MAX_IMAGE_BYTES:,} bytes)"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{what}: the file cannot be read ({cause(error)})") from None
    if not data:
        raise ImageError(f"{what}: the file is empty (0 bytes)")
    return data


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Pad an RGB image to a square in the mean colour, centred.

    Most processors resize the short edge and crop the centre, which cuts both sides of a wide
    film; padding keeps them. Where the difference of the sides is odd, the bottom or right border
    is wider by one pixel.

    The colour is ``int(255 * mean)``, truncated, as in LLaVA's ``expand2square``, with which
    LLaVA-Med was trained, and in transformers' ``LlavaImageProcessor``: (122, 116, 104) for the
    means of CLIP.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, any size.
    mean : sequence of float
        Channel means in [0, 1], those of the normalisation that follows: the padding becomes
        0, to within one level of 255.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, side = the longer side of ``image``.
    """
    if image.width == image.height:
        return image
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _decode(image: Image.Image, what: str, window: Window | None) -> Image.Image:
    require_size(*image.size, what)
    try:
        # An MPO is a JPEG whose further frames are previews or the second eye of a camera.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise several_frames(getattr(image, "n_frames", 0), what)
        image.load()
        upright = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return _deep_to_rgb(upright, _zero_is_white(image), what, window)
        rgb = _to_rgb(upright)
        return rgb if window is None else Image.fromarray(to_uint8(np.asarray(rgb), *window))
    except ImageError:
        raise
    # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, EOFError and others
    # on damaged files; each means the same to the caller.
    except Exception as error:
        raise unreadable(what, error) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layered).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _deep_to_rgb(
    image: Image.Image, inverted: bool, what: str, window: Window | None
) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    full = value_range(values, what)
    levels = to_uint8(values, *(window or full))
    return Image.fromarray(255 - levels if inverted else levels).convert("RGB")


def _zero_is_white(image: Image.Image) -> bool:
    # Pillow inverts such a TIFF at 8 bits, and hands the values over as they are above that.
    tags = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC_INTERPRETATION) == 0
