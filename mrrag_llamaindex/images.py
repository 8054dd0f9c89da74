"""Read an image so that what follows can rely on it: whole, RGB, upright, of a sane size."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or an image that is already open."""

_FEED = 1 << 20


def load_image(source: ImageSource, *, what: str = "image") -> Image.Image:
    """Read an image completely and bring it into one form.

    Transparency is composited on black, the background of a film. Modes deeper than 8 bits
    (``I;16``, ``I``, ``F``) are mapped linearly from their own minimum..maximum to 0..255, because
    a plain conversion clips everything above 255 to white. EXIF orientation is applied.

    Parameters
    ----------
    source : ImageSource
        A path, the bytes of an image file, or a `PIL.Image.Image` (left as it is; a copy is
        returned).
    what : str
        What the image is, for error messages, for example ``"query image"``. Neither the path
        nor anything else of the source appears in a message.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, decoded to the last pixel, no side below `defaults.MIN_IMAGE_SIDE`.

    Raises
    ------
    ImageError
        If the source is missing, empty, not an image, truncated, smaller than
        `defaults.MIN_IMAGE_SIDE`, larger than `defaults.MAX_IMAGE_PIXELS` (or than the limit of
        Pillow itself, where that is lower), or holds several frames. The message begins with
        ``what``.
    """
    if isinstance(source, Image.Image):
        return _decode(source, what)
    stream = _open_stream(source, what)
    with stream:
        try:
            image = Image.open(stream)
        except Image.DecompressionBombError:
            raise _too_large(what) from None
        except UnidentifiedImageError:
            raise ImageError(f"{what}: {_unidentified(stream)}") from None
        except Exception as error:
            raise _unreadable(what, error) from None
        with image:
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                _require_complete(stream, image.format, what)
            return _decode(image, what)


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
    digest = hashlib.sha256()
    if isinstance(source, Image.Image):
        try:
            pixels = source.tobytes()
        except Exception as error:
            raise _unreadable(what, error) from None
        digest.update(f"{source.mode} {source.width}x{source.height} ".encode())
        if source.palette is not None:
            digest.update(bytes(source.palette.palette))
        digest.update(pixels)
        return digest.hexdigest()
    with _open_stream(source, what) as stream:
        try:
            while block := stream.read(_FEED):
                digest.update(block)
        except OSError as error:
            raise _unreadable(what, error) from None
    return digest.hexdigest()


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Pad an RGB image to a square in the mean colour, centred.

    Most processors resize the short edge and crop the centre, which cuts both sides of a wide
    film. Padding keeps the whole of it.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, any size.
    mean : sequence of float
        Channel means in [0, 1], those of the normalisation that follows: the padding becomes 0.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, side = the longer side of ``image``.
    """
    if image.width == image.height:
        return image
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(round(255 * channel) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _open_stream(source: str | os.PathLike[str] | bytes, what: str) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(f"{what}: the data is empty (0 bytes)")
        return io.BytesIO(source)
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
        if path.stat().st_size == 0:
            raise ImageError(f"{what}: the file is empty (0 bytes)")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise ImageError(f"{what}: the file cannot be opened ({_cause(error)})") from None


def _decode(image: Image.Image, what: str) -> Image.Image:
    width, height = image.size
    if width * height > defaults.MAX_IMAGE_PIXELS:
        raise _too_large(what)
    if min(width, height) < defaults.MIN_IMAGE_SIDE:
        raise ImageError(
            f"{what}: {width} x {height} pixels is too small to be a study "
            f"(at least {defaults.MIN_IMAGE_SIDE} on each side)"
        )
    try:
        # An MPO is a JPEG whose further frames are previews or the second eye of a camera.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise ImageError(
                f"{what}: the file holds {getattr(image, 'n_frames', 0)} frames; "
                "choose one and save it as a single image"
            )
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), what)
    except ImageError:
        raise
    # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, EOFError and others
    # on damaged files; each means the same to the caller.
    except Exception as error:
        raise _unreadable(what, error) from None


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _stretch(image, what).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        black = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layered).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _stretch(image: Image.Image, what: str) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{what}: some pixel values are not finite numbers")
    low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.round((values - low) * scale).astype(np.uint8), mode="L")


def _require_complete(stream: BinaryIO, image_format: str | None, what: str) -> None:
    # ImageFile.LOAD_TRUNCATED_IMAGES, which an application may have set, makes Pillow fill the
    # missing part with grey. PNG's checksums and JPEG's end marker, which cannot occur inside
    # the compressed data, tell all the same.
    stream.seek(0)
    data = stream.read()
    stream.seek(0)
    try:
        if image_format == "PNG":
            with Image.open(io.BytesIO(data)) as image:
                image.verify()
        elif image_format in ("JPEG", "MPO") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise EOFError
    except Exception as error:
        raise _unreadable(what, error) from None


def _unidentified(stream: BinaryIO) -> str:
    stream.seek(128)
    if stream.read(4) == b"DICM":
        return "this is a DICOM file; export it as PNG or JPEG first"
    return "this is not an image that Pillow can read (PNG, JPEG, TIFF and others)"


def _too_large(what: str) -> ImageError:
    return ImageError(
        f"{what}: it claims more pixels than any radiograph has, which exhausts memory when "
        f"decoded (limit {defaults.MAX_IMAGE_PIXELS:,}); scale it down first"
    )


def _unreadable(what: str, error: BaseException) -> ImageError:
    return ImageError(
        f"{what}: the file is damaged or incomplete and cannot be decoded ({_cause(error)})"
    )


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
