"""Images as Pillow opens them: checked before they are decoded, then turned into RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import (
    jpeg_has_end,
    one_frame,
    require_complete,
    require_memory,
    require_size,
    unreadable,
    wholly_transparent,
)
from mrrag_llamaindex.images.depth import Window, bands, to_uint8, value_range
from mrrag_llamaindex.images.jpeg import require_sound
from mrrag_llamaindex.images.tiff import Page

_ORIENTATION = 0x0112

# Bytes per pixel of Pillow's modes.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# What decoders take per pixel beside that: coefficients of a progressive JPEG, whole pictures.
_DECODER_BYTES = {"JPEG": 6, "MPO": 6, "JPEG2000": 16, "WEBP": 8, "GIF": 8}


def require_kept_samples(image: Image.Image, what: str) -> None:
    """Refuse an open image of a file whose samples Pillow has cut down or misread."""
    tags = getattr(image, "tag_v2", None)
    page = Page.of(tags, tags.prefix == b"MM") if tags else None
    tiles = getattr(image, "tile", None) or ()
    cut = any(";16" in str(tile[3]) for tile in tiles) and not image.mode.startswith("I;16")
    if (page is not None and not page.fits_pillow and not _is_deep_grey(image, page)) or cut:
        name = page.sample_format if page else "16 bits in several channels"
        raise ImageError(
            f"{what}: Pillow does not keep the sample format of this open image ({name}); give "
            "its path or bytes instead"
        )


def _is_deep_grey(image: Image.Image, page: Page) -> bool:
    return image.mode in ("I;16", "I;16B", "F") and page.photometric == 0


def seek_frame(image: Image.Image, frame: int | None, what: str) -> None:
    """Seek the frame that is asked for."""
    try:
        # An MPO is a JPEG whose further frames are previews or the second eye of a camera.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        index = one_frame(frames, frame, what)
        require_size(*image.size, what)
        _require_memory(image, what)
        if index:
            image.seek(index)
    except ImageError:
        raise
    except Exception as error:
        raise unreadable(what, error) from None


def require_whole(data: bytes, image: Image.Image, what: str) -> None:
    """Refuse what is damaged or cut, and would be shown all the same."""
    if image.format in ("JPEG", "MPO"):
        require_sound(data, what)
    elif image.format == "JPEG2000" and not jpeg_has_end(data):
        raise unreadable(what, EOFError())
    # Pillow ignores the checksums of a PNG's pixels.
    if image.format == "PNG" or ImageFile.LOAD_TRUNCATED_IMAGES:
        require_complete(data, image.format, what)


def _require_memory(image: Image.Image, what: str) -> None:
    """Refuse what decoding and the steps to RGB would not have the memory for."""
    held = _MODE_BYTES.get(image.mode, 4)
    steps = 4  # RGB
    if image.has_transparency_data:
        steps += 13  # RGBA, RGB, alpha, and black to paste on
    elif _is_deep(image):
        steps += 2
    if "exif" in image.info:  # it may have to be turned; getexif() would decode a PNG
        steps += held
    per_pixel = held + steps + _DECODER_BYTES.get(image.format or "", 0)
    require_memory(*image.size, per_pixel, what)


def decode(image: Image.Image, what: str, window: Window | None) -> Image.Image:
    """Decode an open image and bring it into RGB, upright.

    Parameters
    ----------
    image : PIL.Image.Image
        Not changed.
    what : str
        What the image is, for error messages.
    window : tuple of float or None
        (low, high), as in `mrrag_llamaindex.images.load.load_image`.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    ImageError
        If it is too small or too large, damaged, or of colours that have no way to RGB.
    """
    try:
        require_size(*image.size, what)
        _require_memory(image, what)
        image.load()
        inverted = _zero_is_white(image)
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
        if _is_deep(image):
            return _deep_to_rgb(upright, inverted, what, window)
        rgb = _to_rgb(upright, what)
        return rgb if window is None else Image.fromarray(to_uint8(np.asarray(rgb), *window))
    except ImageError:
        raise
    # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, EOFError and others
    # on damaged files; each means the same to the caller.
    except Exception as error:
        raise unreadable(what, error) from None


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode == "LAB":
        raise ImageError(f"{what}: its colours (Lab) cannot be converted to RGB; save it as RGB")
    if image.mode == "La":  # premultiplied is composited on black already
        return image.getchannel(0).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getbbox() is None:
            raise wholly_transparent(what)
        black = Image.new("RGB", layered.size)
        black.paste(layered.convert("RGB"), mask=layered.getchannel("A"))
        return black
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _deep_to_rgb(
    image: Image.Image, inverted: bool, what: str, window: Window | None
) -> Image.Image:
    values = np.asarray(image)
    full = value_range(bands(values), what)
    levels = to_uint8(values, *(window or full))
    if inverted:
        np.subtract(255, levels, out=levels)
    return Image.fromarray(levels).convert("RGB")


def _zero_is_white(image: Image.Image) -> bool:
    # Pillow inverts such a TIFF at 8 bits, and hands the values over as they are above that.
    tags = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC_INTERPRETATION) == 0
