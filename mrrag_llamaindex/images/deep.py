"""Files whose samples Pillow cannot hold: deep colour, signed bytes, unsigned 32 bits, doubles."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import require_memory, require_size, wholly_transparent
from mrrag_llamaindex.images.depth import Window, bands, in_bands, to_uint8, value_range

if TYPE_CHECKING:
    Samples = npt.NDArray[Any]

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class DeepFile:
    """An image whose samples are read without Pillow, not yet decoded.

    Attributes
    ----------
    width, height, channels : int
        Channels with those that are not shown.
    sample_format : str
        For messages: ``"3 x 16-bit unsigned integer"``.
    item : int
        Bytes per sample.
    decode : callable
        Gives the samples, shape (height, width) or (height, width, channels).
    alpha : {"none", "straight", "premultiplied"}
        What the last channel is.
    colours : int
        1 for grey, 3 for RGB.
    zero_is_white : bool
    orientation : int
        As in EXIF.
    packages : tuple of str
        What `decode` needs.
    """

    width: int
    height: int
    channels: int
    sample_format: str
    item: int
    decode: Callable[[], Samples]
    alpha: str = "none"
    colours: int = 1
    zero_is_white: bool = False
    orientation: int = 1
    packages: tuple[str, ...] = ("imagecodecs",)

    def load(self, what: str, window: Window | None) -> Image.Image:
        """Decode the samples and map them to RGB of 8 bits.

        As for grey, ``window`` or else the range of the values becomes 0..255, one range for all
        channels, so that colours keep their balance. What is wholly transparent is no part of the
        range. Transparency is composited on black.

        Parameters
        ----------
        what : str
            What the image is, for error messages.
        window : tuple of float or None
            (low, high), in samples.

        Returns
        -------
        PIL.Image.Image
            Mode RGB.

        Raises
        ------
        ImageError
            If a package is missing, the image too small, too large or wholly transparent, a sample
            not finite, or the file damaged.
        """
        require_size(self.width, self.height, what)
        per_pixel = self.channels * (2 * self.item + 1) + 2 * 4
        require_memory(self.width, self.height, per_pixel, what)
        try:
            samples = self.decode()
        except ModuleNotFoundError:
            raise ImageError(
                f"{what}: its sample format ({self.sample_format}) needs "
                f"{' and '.join(self.packages)}; "
                'pip install "mrrag-llamaindex[deep]", or save it as 8-bit or 16-bit grey'
            ) from None
        samples = samples.reshape(self.height, self.width, -1)
        if samples.shape[2] != self.channels:
            raise ImageError(
                f"{what}: it has {samples.shape[2]} channels, and its header says {self.channels}"
            )
        values, opacity = samples[..., : self.colours], None
        if self.alpha != "none":
            opacity = samples[..., self.colours]
            if opacity.dtype.kind == "i":
                raise ImageError(f"{what}: its sample format (signed transparency) cannot be read")
            if not opacity.any():
                raise wholly_transparent(what)
        low, high = window or self._range(values, opacity, what)
        if self.alpha == "premultiplied" and low != 0:
            # Scaled from 0 the product stays a product; from elsewhere it must be undone first.
            raise ImageError(
                f"{what}: its sample format ({self.sample_format}, premultiplied transparency) "
                "cannot be windowed; save it without transparency"
            )
        levels = to_uint8(values, low, high)
        if self.zero_is_white:
            np.subtract(255, levels, out=levels)
        if self.alpha == "straight" and opacity is not None:
            white = 1.0 if opacity.dtype.kind == "f" else float(np.iinfo(opacity.dtype).max)
            cover = in_bands(opacity, lambda band: to_uint8(band, 0, white))
            for shown, part in zip(bands(levels), _like(levels, cover), strict=True):
                np.copyto(shown, np.round(shown * (part[..., None] / 255.0)), casting="unsafe")
        image = Image.fromarray(levels[..., 0] if self.colours == 1 else levels).convert("RGB")
        return upright(image, self.orientation)

    def _range(self, values: Samples, opacity: Samples | None, what: str) -> Window:
        if self.alpha == "premultiplied":
            return 0.0, value_range(bands(values), what)[1]
        if opacity is None:
            return value_range(bands(values), what)
        parts = zip(bands(values), _like(values, opacity), strict=True)
        shown = (part[cover > 0] for part, cover in parts)
        return value_range((part for part in shown if part.size), what)


def upright(image: Image.Image, orientation: int | None) -> Image.Image:
    """Turn an image as its EXIF orientation, 1 to 8, says."""
    if orientation not in range(2, 9):
        return image
    image.getexif()[_ORIENTATION] = orientation
    turned: Image.Image = ImageOps.exif_transpose(image)
    return turned


def deep_png(data: bytes, what: str) -> DeepFile | None:
    """Return a PNG of 16 bits per channel, unless it is plain grey, which Pillow holds."""
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    chunks = dict(_png_chunks(data))
    channels = {0: 1, 2: 3, 4: 2, 6: 4}.get(kind, 0) + (b"tRNS" in chunks and kind in (0, 2))
    if bits != 16 or (kind == 0 and channels == 1):
        return None
    if b"acTL" in chunks and int.from_bytes(chunks[b"acTL"][:4], "big") > 1:
        raise ImageError(
            f"{what}: its sample format ({channels} x 16 bits) cannot be read from an animated "
            "PNG; save the frame as a PNG of its own"
        )

    def decode() -> Samples:
        import imagecodecs

        samples: Samples = imagecodecs.png_decode(data)
        return samples

    colours = 3 if kind in (2, 6) else 1
    orientation = _exif_orientation(chunks[b"eXIf"]) if b"eXIf" in chunks else 1
    return DeepFile(
        width, height, channels, f"{channels} x 16-bit unsigned integer", 2, decode,
        alpha="straight" if channels > colours else "none", colours=colours,
        orientation=orientation,
    )  # fmt: skip


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of the chunks, those of the pixels without contents."""
    place = 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        yield name, b"" if name in (b"IDAT", b"fdAT") else data[place + 8 : place + 8 + length]
        place += 12 + length


def _exif_orientation(content: bytes) -> int:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + content)
    return int(exif.get(_ORIENTATION, 1))


def deep_pnm(data: bytes, what: str) -> DeepFile | None:
    """Return a PGM or PPM of 16 bits, which Pillow scales, or cuts down to 8."""
    header = re.match(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)\s+(\d+)\s+(\d+)\s", data[:1024])
    if header is None or int(header[4]) <= 255:
        plain = re.match(rb"P[23]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+(\d+)", data[:1024])
        if plain is not None and int(plain[1]) > 255:
            raise ImageError(
                f"{what}: its sample format (16 bits as text) cannot be read; save it as PNG"
            )
        return None
    width, height = int(header[2]), int(header[3])
    channels = 3 if header[1] == b"6" else 1

    def decode() -> Samples:
        return np.frombuffer(data, ">u2", width * height * channels, header.end())

    return DeepFile(
        width, height, channels, f"{channels} x 16-bit unsigned integer", 2, decode,
        colours=channels, packages=(),
    )  # fmt: skip


def deep_jpeg2000(data: bytes, what: str) -> DeepFile | None:
    """Return a JPEG 2000 with more than 8 bits or a sign, which Pillow scales or cuts down."""
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(data) < place + 42:
        return None
    x1, y1, x0, y0 = struct.unpack(">4I", data[place + 8 : place + 24])
    channels = int.from_bytes(data[place + 40 : place + 42], "big")
    depths = {data[at] for at in range(place + 42, min(len(data), place + 42 + 3 * channels), 3)}
    if depths <= set(range(8)):
        return None
    bits = max((depth & 0x7F) + 1 for depth in depths)
    sample_format = f"{channels} x {bits}-bit JPEG 2000"
    colour = data[:place].find(b"colr\x01")
    space = 0 if colour < 0 else int.from_bytes(data[colour + 7 : colour + 11], "big")
    if channels not in (1, 3) or len(depths) > 1 or space == 18 or bits > 16:  # 18: sYCC
        raise ImageError(f"{what}: its sample format ({sample_format}) cannot be read")

    def decode() -> Samples:
        import imagecodecs

        samples: Samples = imagecodecs.jpeg2k_decode(data)
        return samples

    return DeepFile(x1 - x0, y1 - y0, channels, sample_format, 6, decode, colours=channels)


def _like(values: Samples, other: Samples) -> list[Samples]:
    """Cut ``other`` into bands of the same rows as those of ``values``."""
    parts, top = [], 0
    for band in bands(values):
        parts.append(other[top : top + len(band)])
        top += len(band)
    return parts
