"""Image files with stated samples, some of which Pillow cannot write."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def film(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values, mode="RGB")


def tiff(
    values: np.ndarray, order: str = "<", zero_is_white: bool = False, packed: bool = False
) -> bytes:
    """A TIFF of one strip, with tags that Pillow does not write."""
    rows, columns = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    bits = values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if packed else data
    photometric = 2 if samples == 3 else int(not zero_is_white)
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [
        (256, columns), (257, rows), (258, bits), (259, 8 if packed else 1), (262, photometric),
        (273, None), (277, samples), (278, rows), (279, len(data)), (339, sample_format),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in tags:
        if tag == 258 and samples == 3:
            body += struct.pack(order + "HHII", tag, 3, 3, after)
        else:
            body += struct.pack(order + "HHII", tag, 4, 1, after + 8 if value is None else value)
    return body + struct.pack(order + "I4H", 0, *(bits,) * 4) + data


def png16(values: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits per channel in the given colour type, which Pillow does not write."""
    rows, columns = values.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, 16, colour, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, body: bytes) -> bytes:
    tail = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + tail
