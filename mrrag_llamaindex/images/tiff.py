"""TIFF: which pages Pillow reads rightly, and the others through tifffile."""

from __future__ import annotations

import io
import logging
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import one_frame, require_memory, unreadable
from mrrag_llamaindex.images.deep import DeepFile
from mrrag_llamaindex.images.jpeg import require_sound

if TYPE_CHECKING:
    import numpy.typing as npt

_PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating point"}
_GREY, _RGB = (0, 1), 2
_YCBCR = 6
_COLOURS = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_COUNTED_PAGES = 10_000
_OLD_JPEG, _JPEG = 6, 7
_DEFLATE = (8, 32946)
_CHUNK = 2**20
# Bits and sample format of one grey channel that Pillow holds as they are.
_HELD_BY_PILLOW = {(16, 1), (16, 2), (32, 2), (32, 3)}


@dataclass(frozen=True)
class Page:
    """What one page says of its samples, see the baseline tags of TIFF 6."""

    width: int
    height: int
    bits: tuple[int, ...]
    formats: frozenset[int]
    photometric: int
    extra: tuple[int, ...]
    fill_order: int
    tile: tuple[int, int]
    orientation: int
    big_endian: bool
    compression: int
    pieces: tuple[tuple[int, int], ...]
    rows_per_strip: int
    planar: bool
    jpeg_tables: bytes

    @classmethod
    def of(cls, tags: Any, big_endian: bool) -> Page:
        """Read the tags, with the defaults of TIFF 6."""
        samples = int(_one(tags, 277, 1))
        # Tiles, else strips: where they begin, and their bytes.
        place, size = ((324, ()), (325, ())) if 324 in tags else ((273, ()), (279, ()))
        bits = tuple(int(bit) for bit in _all(tags, 258, (1,)))
        return cls(
            width=int(_one(tags, 256, 0)),
            height=int(_one(tags, 257, 0)),
            bits=bits * samples if len(bits) == 1 else bits,
            formats=frozenset(int(item) for item in _all(tags, 339, (1,))),
            photometric=int(_one(tags, 262, 1)),
            extra=tuple(int(item) for item in _all(tags, 338, ())),
            fill_order=int(_one(tags, 266, 1)),
            tile=(int(_one(tags, 322, 0)), int(_one(tags, 323, 0))),
            orientation=int(_one(tags, 274, 1)),
            big_endian=big_endian,
            compression=int(_one(tags, 259, 1)),
            pieces=tuple(zip(_all(tags, *place), _all(tags, *size), strict=False)),
            rows_per_strip=int(_one(tags, 278, 2**32 - 1)),
            planar=_one(tags, 284, 1) == 2,
            jpeg_tables=bytes(tags.get(347, b"")),
        )

    @property
    def sample_format(self) -> str:
        """For messages: ``"3 x 16-bit unsigned integer"``."""
        depths, formats = sorted(set(self.bits)), sorted(self.formats)
        depth = "/".join(map(str, depths)) if len(depths) <= 3 else "mixed"
        kind = _FORMATS.get(formats[0], "complex or void") if len(formats) == 1 else "mixed"
        colour = _COLOURS.get(self.photometric, "")
        text = f"{len(self.bits)} x {depth}-bit {kind} {colour}".strip()
        return f"{text}, zero is white" if self.photometric == 0 else text

    @property
    def fills_its_strips(self) -> bool:
        """Whether strips without compression hold as many rows as the page has.

        A strip may be padded to words, and the last of several be as long as the others.
        """
        if self.compression != 1 or self.tile != (0, 0) or self.photometric == _YCBCR:
            return True
        held = [length for _, length in self.pieces]
        step = min(max(1, self.rows_per_strip), self.height)
        strips = -(-self.height // max(1, step))
        planes = [(bit,) for bit in self.bits] if self.planar else [self.bits]
        if not any(held) or len(held) != strips * len(planes):
            return not any(held)  # very old files do not say
        for place, length in enumerate(held):
            row = -(-self.width * sum(planes[place // strips]) // 8)
            is_last = (place + 1) % strips == 0
            rows = {self.height - (strips - 1) * step if is_last else step}
            rows |= {step} if strips > 1 else set()
            sizes = [row * count for count in rows]
            if length not in {size + -size % word for size in sizes for word in (1, 2, 4)}:
                return False
        return True

    @property
    def fits_pillow(self) -> bool:
        """Whether Pillow gives these samples as they are, or refuses them."""
        if self.formats == {1} and max(self.bits) <= 8:
            return self.photometric not in (8, 9, 10)
        one = len(self.bits) == 1 and len(self.formats) == 1 and self.fill_order == 1
        held = one and (self.bits[0], *self.formats) in _HELD_BY_PILLOW
        if self.big_endian and self.compression != 1 and self.formats != {1}:
            return False  # Pillow 12 and 13 swap the bytes a second time
        # Zero is white: kept as it is, and inverted by us. 16 bits only in this byte order.
        white = self.bits == (16,) and self.formats == {1} and not self.big_endian
        return held and (
            self.photometric == 1 or (self.photometric == 0 and (white or self.formats == {3}))
        )


def page_of(data: bytes, frame: int | None, what: str) -> Page | None:
    """Return what the page to be read says of its samples; None if this is no TIFF.

    Raises
    ------
    ImageError
        If there are several pages and ``frame`` names none of them, or it would take too much
        memory to decode one tile of the page.
    """
    if data[:4] not in _PREFIXES:
        return None
    pages = [Page.of(tags, data[:1] == b"M") for tags in _directories(data)]
    if not pages:
        return None
    page = pages[one_frame(len(pages), frame, what)]
    tile = max(page.width, page.tile[0]), max(page.height, page.tile[1])
    require_memory(*tile, sum(page.bits) / 8, what)
    return page


def require_sound_pieces(data: bytes, page: Page, what: str) -> None:
    """Refuse a TIFF whose decoder would read what is damaged, or only warn of it.

    Raises
    ------
    ImageError
        If strips without compression hold more or fewer rows than the page; if a strip or tile of
        JPEG is damaged, or of the kind that TIFF gave up in 1995; if one of Deflate does not have
        its checksum, at which libtiff does not look.
    """
    if not page.fills_its_strips:
        raise ImageError(
            f"{what}: the file is damaged; this TIFF says {page.width} x {page.height} pixels, and "
            "its strips hold other numbers of bytes"
        )
    if page.compression == _OLD_JPEG:
        raise ImageError(f"{what}: a TIFF with old-style JPEG inside cannot be read; save it anew")
    if page.compression == _JPEG:
        for start, length in page.pieces:
            # The tables are a JPEG without pixels, the piece one without tables.
            piece = data[start : start + length]
            tables = page.jpeg_tables[:-2]
            require_sound(tables + piece[2:] if tables else piece, what)
    if page.compression in _DEFLATE:
        most = (page.width + page.tile[0]) * (page.height + page.tile[1]) * sum(page.bits) // 8
        for start, length in page.pieces:
            try:
                _require_checksum(data[start : start + length], 2 * most + _CHUNK)
            except (EOFError, zlib.error):
                raise unreadable(what, EOFError()) from None


def _require_checksum(piece: bytes, most: int) -> None:
    """Inflate at most so many bytes and keep none, for the checksum at the end."""
    inflating = zlib.decompressobj()
    while not inflating.eof:
        part = len(inflating.decompress(piece, _CHUNK))
        most -= part
        piece = inflating.unconsumed_tail
        if most < 0 or not (part or piece or inflating.eof):
            raise EOFError


def deep_tiff(data: bytes, page: Page, frame: int | None, what: str) -> DeepFile | None:
    """Return a page for tifffile, unless Pillow reads it rightly.

    Raises
    ------
    ImageError
        If its samples cannot be mapped to RGB. Names the sample format.
    """
    if page.fits_pillow:
        return None
    channels = len(page.bits)
    colours = 3 if page.photometric == _RGB else 1
    if (
        page.photometric not in (*_GREY, _RGB)
        or len(set(page.bits)) > 1
        or len(page.formats) > 1
        or not page.formats <= set(_FORMATS)
        or channels != colours + len(page.extra)
        or (page.extra and page.extra[0] not in (1, 2))
    ):
        raise ImageError(
            f"{what}: its sample format ({page.sample_format}) cannot be read; save it as a TIFF "
            "or PNG of 8 bits, or as grey or RGB without further channels"
        )

    def decode() -> npt.NDArray[Any]:
        import tifffile

        with _heard("tifffile") as complaints, tifffile.TiffFile(io.BytesIO(data)) as file:
            part = file.pages[(frame or 1) - 1]
            samples: npt.NDArray[Any] = part.asarray()
            axes = str(part.axes)
        if any("coercing invalid ASCII" not in complaint for complaint in complaints):
            raise unreadable(what, ValueError())
        # Planar files have their channels first.
        return np.moveaxis(samples, 0, -1) if axes.startswith("S") else samples

    return DeepFile(
        page.width,
        page.height,
        channels,
        page.sample_format,
        max(1, page.bits[0] // 8),
        decode,
        alpha={1: "premultiplied", 2: "straight"}[page.extra[0]] if page.extra else "none",
        colours=colours,
        zero_is_white=page.photometric == 0,
        orientation=page.orientation,
        packages=("tifffile", "imagecodecs"),
    )


@contextmanager
def _heard(name: str) -> Iterator[list[str]]:
    """Collect what a logger is told by this thread, and keep it to ourselves.

    tifffile logs the values of tags that it cannot read, and goes on with what is left: without a
    predictor, a strip or an order of planes.
    """
    complaints: list[str] = []
    thread = threading.get_ident()

    def collect(record: logging.LogRecord) -> bool:
        if threading.get_ident() != thread:
            return True
        complaints.append(record.getMessage())
        return False

    logger = logging.getLogger(name)
    logger.addFilter(collect)
    try:
        yield complaints
    finally:
        logger.removeFilter(collect)


def _directories(data: bytes) -> Iterator[Any]:
    """Yield the tags of each page."""
    header = data[:16] if data[2:4] in (b"+\0", b"\0+") else data[:8]
    tags = ImageFileDirectory_v2(header)
    stream, seen = io.BytesIO(data), set[int]()
    while tags.next and tags.next not in seen and len(seen) < _COUNTED_PAGES:
        seen.add(tags.next)
        stream.seek(tags.next)
        tags.load(stream)
        yield tags


def _one(tags: Any, number: int, default: int) -> Any:
    values = _all(tags, number, (default,))
    return values[0] if values else default


def _all(tags: Any, number: int, default: tuple[int, ...]) -> tuple[Any, ...]:
    value = tags.get(number, default)
    return value if isinstance(value, tuple) else (value,)
