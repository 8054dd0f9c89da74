"""Images: sound ones must give their pixels, damaged ones those or an error.

What is right is what numpy holds before Pillow writes it; for lossy formats, and for damage that no
checksum can show, what Pillow reads from the same bytes.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import load_image
from tests.campaign.damage import damage
from tests.campaign.tally import Part, WrongValueError
from tests.images.making import encoded, png16, tiff

_LOSSLESS = {
    "PNG": ("L", "RGB", "RGBA", "LA", "I;16", "1"),
    "TIFF": ("L", "RGB", "RGBA", "I;16", "F"),
    "BMP": ("L", "RGB"),
    "PPM": ("L", "RGB", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG2000": ("L", "RGB"),
    "GIF": ("L",),
}
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "PNG": [{}, {"optimize": True}, {"compress_level": 0}],
    "TIFF": [
        {},
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ],
    "WEBP": [{"lossless": True, "exact": True}],
}
_SAMPLE_FORMAT, _SIGNED = 339, 2
_JPEG = ({}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"optimize": True})


def expected(values: np.ndarray, *, zero_is_white: bool = False) -> np.ndarray:
    """RGB levels of samples: deep ones from the range of what can be seen, then on black."""
    white = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    levels = values.astype(float)
    if levels.ndim == 2:
        levels = levels[..., None]
    cover = np.ones((*levels.shape[:2], 1))
    if levels.shape[2] in (2, 4):
        levels, cover = levels[..., :-1], levels[..., -1:] / white
    if values.dtype == bool:
        levels = levels * 255
    elif values.dtype != np.uint8:
        seen = levels[np.broadcast_to(cover > 0, levels.shape)]
        levels = (levels - seen.min()) / (float(np.ptp(seen)) or 1) * 255
    if zero_is_white:
        levels = 255 - levels
    return np.broadcast_to(levels * cover, (*levels.shape[:2], 3))


@st.composite
def pictures(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a file, its levels where they are known, and whether it is damaged."""
    shape = draw(st.tuples(st.integers(16, 40), st.integers(16, 40)))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from((*_LOSSLESS, "JPEG", "PNG", "TIFF", "deep png", "deep tiff")))
    levels: np.ndarray | None = None
    if kind == "JPEG":
        channels = draw(st.sampled_from((1, 3)))
        smooth = pixels.integers(0, 256, (*[-(-side // 8) for side in shape], channels), np.uint8)
        values = smooth.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
        data = encoded(Image.fromarray(values.squeeze()), kind, **draw(st.sampled_from(_JPEG)))
    elif kind == "deep png":
        colour, channels = draw(st.sampled_from(((0, 1), (2, 3), (4, 2), (6, 4))))
        values = pixels.integers(0, 2**16, (*shape, channels), np.uint16)
        data = png16(values, colour)
        levels = expected(values)
    elif kind == "deep tiff":
        dtype = draw(st.sampled_from(("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")))
        values = (pixels.standard_normal(shape) * 100).astype(dtype)
        white = draw(st.booleans())
        data = tiff(values, draw(st.sampled_from("<>")), white, draw(st.booleans()))
        levels = expected(values, zero_is_white=white)
    else:
        values = _samples(pixels, draw(st.sampled_from(_LOSSLESS[kind])), shape)
        options = draw(st.sampled_from(_OPTIONS.get(kind, [{}])))
        data = encoded(Image.fromarray(values), kind, **options)
        levels = expected(values)
    hurt = draw(st.booleans())
    return {
        "kind": kind,
        "levels": levels,
        "sound": data,
        "data": draw(damage(data)) if hurt else data,
    }


def _samples(pixels: np.random.Generator, mode: str, shape: tuple[int, int]) -> np.ndarray:
    if mode == "1":
        return pixels.integers(0, 2, shape).astype(bool)
    if mode == "I;16":
        return pixels.integers(0, 2**16, shape, np.uint16)
    if mode == "F":
        return pixels.standard_normal(shape).astype(np.float32)
    bands = len(mode)
    values = pixels.integers(0, 256, (*shape, bands), np.uint8)
    return values[..., 0] if bands == 1 else values


def check(picture: dict[str, Any], folder: Path) -> None:
    data = picture["data"]
    harmless = data == picture["sound"]
    try:
        shown = load_image(data, what="query image")
    except ImageError as error:
        if harmless:
            raise WrongValueError(f"a sound {picture['kind']} is refused: {error}") from None
        raise
    if shown.mode != "RGB":
        raise WrongValueError(f"a {picture['kind']} has become {shown.mode}")
    levels = np.asarray(shown)
    if picture["levels"] is not None and _near(levels, picture["levels"]):
        return
    if harmless and picture["levels"] is not None:
        raise WrongValueError(f"the pixels of a sound {picture['kind']} are others")
    if data[:8] == b"\x89PNG\r\n\x1a\n" and not _png_is_whole(data):
        raise WrongValueError("a PNG with a wrong checksum is read")
    samples = _as_pillow_reads(data)
    if samples is not None and not _shows(levels, samples):
        raise WrongValueError(f"a {picture['kind']} is read otherwise than Pillow does")


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    # Rounded at each of up to three steps.
    return one.shape == other.shape and bool(np.abs(one.astype(float) - other).max() <= 1.5)


def _shows(levels: np.ndarray, samples: np.ndarray) -> bool:
    """Compare by rows where these do not hang together: damage may make a large image of a few."""
    step = 64 if samples.dtype == np.uint8 else max(1, len(samples))
    return len(levels) == len(samples) and all(
        _near(levels[top : top + step], expected(samples[top : top + step]))
        for top in range(0, len(samples), step)
    )


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to the last has the checksum that it states."""
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        stated = data[place + 8 + length : place + 12 + length]
        if len(stated) < 4 or zlib.crc32(body) != int.from_bytes(stated, "big"):
            return False
        if body[:4] == b"IEND":
            return True
        place += 12 + length
    return False


def _as_pillow_reads(data: bytes) -> np.ndarray | None:
    """Samples of 8 bits, as Pillow reads them; None where it can make nothing of the file."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10":
        return None  # it keeps 8 of the 16 bits
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA") or "exif" in image.info:
                return None
            signed = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT) == (_SIGNED,)
            if signed and image.mode == "L":
                return np.asarray(image).view(np.int8)  # it takes the bytes for unsigned ones
            has_alpha = image.has_transparency_data
            return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    except Exception:
        return None


PART = Part("images", pictures(), check)
