"""Read an image so that what follows can rely on it: complete, RGB, upright, of a sane size."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image, UnidentifiedImageError

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import (
    ImageWarning,
    cause,
    checked_frame,
    one_frame,
    require_complete,
    require_size,
    too_large,
    unreadable,
)
from mrrag_llamaindex.images.deep import DeepFile, deep_jpeg2000, deep_png, deep_pnm
from mrrag_llamaindex.images.depth import Window, checked_window
from mrrag_llamaindex.images.dicom.read import read_dicom
from mrrag_llamaindex.images.dicom.source import is_dicom
from mrrag_llamaindex.images.formats import PILLOW_FORMATS, foreign_format, not_readable
from mrrag_llamaindex.images.jpeg import require_known_kind
from mrrag_llamaindex.images.raster import (
    decode,
    require_kept_samples,
    require_whole,
    seek_frame,
)
from mrrag_llamaindex.images.tiff import Page, deep_tiff, page_of, require_sound_pieces

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|https?:/", re.IGNORECASE)
"""``pathlib`` makes one stroke of two."""

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or an image that is already open."""


def load_image(
    source: ImageSource,
    *,
    what: str = "image",
    window: Window | None = None,
    frame: int | None = None,
) -> Image.Image:
    """Read an image completely and bring it into one form.

    DICOM files are read through pydicom, see `mrrag_llamaindex.images.dicom.read.read_dicom`. Of
    other files those in `mrrag_llamaindex.images.formats.PILLOW_FORMATS` are read, through Pillow.
    Transparency is composited on black, the background of a film. EXIF orientation is applied.

    Samples of more than 8 bits are mapped linearly, by default from their own minimum..maximum, to
    0..255, because a plain conversion clips everything above 255 to white; in colour with one
    range for all channels. A TIFF of that depth in which zero is white is inverted. Pillow holds
    one channel of 16 bits, signed 32 bits or float32; others (16 bits in colour or with
    transparency, signed bytes, unsigned 32 bits, doubles, JPEG 2000 above 8 bits) are read through
    imagecodecs and tifffile, the extra ``deep``.

    Parameters
    ----------
    source : ImageSource
        A path, the bytes of an image file, or a `PIL.Image.Image` (left as it is; a copy is
        returned).
    what : str
        What the image is, for messages, for example ``"query image"``. Neither the path nor
        anything else of the source appears in a message.
    window : tuple of float, optional
        (low, high): the values that become black and white, linearly between, clipped beyond. In
        stored values (before the inversion, where zero is white); for 8-bit images, on each
        channel of the RGB image; for DICOM, in units after the rescale, for example HU.
    frame : int, optional
        Which frame or page, from 1, of a file with several. An open image has one: the one at which
        it stands.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, decoded to the last pixel, no side below `defaults.MIN_IMAGE_SIDE`.

    Raises
    ------
    ImageError
        If ``window`` is not two finite numbers, low below high, or ``frame`` no whole number from
        1. If the source is missing, empty, not an image or of a format that is not read, which is
        named; if it is truncated or damaged, also where its decoder would only warn or looks at no
        checksum; if all of it is transparent; if it is smaller than `defaults.MIN_IMAGE_SIDE`,
        larger than `defaults.MAX_IMAGE_PIXELS` (or than the limit of Pillow itself, where that is
        lower) or `defaults.MAX_IMAGE_BYTES`, or would take more than `defaults.MAX_DECODING_BYTES`
        to decode; if it holds several frames of which none is asked for. If its sample format
        cannot be read or a package for it is not installed, both named. The message begins with
        ``what``.

    Warns
    -----
    ImageWarning
        If a step had to be chosen that the file leaves open or states wrongly.
    """
    window = checked_window(window, what)
    frame = checked_frame(frame, what)
    if isinstance(source, Image.Image):
        one_frame(1, frame, what)
        require_kept_samples(source, what)
        return decode(source, what, window)
    data = read_bytes(source, what=what)
    if is_dicom(data):
        return read_dicom(data, what=what, window=window, frame=frame)
    if foreign_format(data) is not None:
        raise not_readable(data, what)
    require_known_kind(data, what)
    page: Page | None = None
    try:
        page = page_of(data, frame, what)
        if page is not None:
            require_sound_pieces(data, page, what)
        deep = _deep_file(data, page, frame, what)
        if deep is not None:
            return deep.load(what, window)
        image = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise too_large(what) from None
    except UnidentifiedImageError:
        if page is not None:
            raise ImageError(
                f"{what}: the sample format of this TIFF ({page.sample_format}) cannot be read, or "
                "its tags are damaged; save it as a TIFF or PNG of 8 bits"
            ) from None
        raise not_readable(data, what) from None
    except Exception as error:
        raise unreadable(what, error) from None
    if page is not None and 0 in page.extra:
        warnings.warn(
            f"{what}: a channel that this TIFF does not explain is left out",
            ImageWarning,
            stacklevel=2,
        )
    with image:
        seek_frame(image, frame, what)
        require_whole(data, image, what)
        return decode(image, what, window)


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
    if _ADDRESS.match(str(source)):
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


def _deep_file(data: bytes, page: Page | None, frame: int | None, what: str) -> DeepFile | None:
    """Return what Pillow cannot hold, for another reader."""
    deep: DeepFile | None
    if page is not None:
        return deep_tiff(data, page, frame, what)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        deep = deep_png(data, what)
        if deep is not None:
            require_size(deep.width, deep.height, what)
            require_complete(data, "PNG", what)
    else:
        deep = deep_pnm(data, what) or deep_jpeg2000(data, what)
    if deep is not None:
        one_frame(1, frame, what)
    return deep
