"""Samples that Pillow cannot hold keep their order and range, or are named."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import ImageWarning
from mrrag_llamaindex.images.load import load_image
from tests.images.making import chunk, encoded, png16, tiff

# Fractions of a range, and what they are of 255: .2 * 255 = 51.
PARTS = np.array([0.0, 1.0, 0.2, 0.6])
LEVELS = [0, 255, 51, 153]
LOWEST_HIGHEST = {
    "int8": (-100, 100),
    "uint16": (0, 4095),
    "int16": (-1000, 3000),
    "uint32": (0, 4294967295),
    "int32": (-2000000000, 2000000000),
    "float16": (-1, 1),
    "float32": (0, 1),
    "float64": (-1e6, 1e6),
}


def ramp(dtype: str) -> np.ndarray:
    low, high = LOWEST_HIGHEST[dtype]
    image = np.full((16, 16), low, dtype=np.float64)
    image[0, :4] = low + PARTS * (high - low)
    return image.astype(dtype)


def colour(dtype: str = "uint16") -> np.ndarray:
    """Red, green and blue begin with the ramp, its reverse and the lowest value."""
    red = ramp(dtype)
    green, blue = red.copy(), np.full_like(red, red[1, 1])
    green[0, :4] = red[0, 3::-1]
    return np.stack([red, green, blue], axis=2)


def first_row(data: Any, **options: Any) -> list[int]:
    return np.asarray(load_image(data, **options))[0, :4, 0].tolist()


def error_of(data: Any, **options: Any) -> str:
    with pytest.raises(ImageError, match=r"^image: ") as caught:
        load_image(data, **options)
    return str(caught.value)


@pytest.fixture
def tifffile() -> Any:
    pytest.importorskip("imagecodecs", reason="the extra deep")
    return pytest.importorskip("tifffile", reason="the extra deep")


@pytest.fixture
def imagecodecs() -> Any:
    return pytest.importorskip("imagecodecs", reason="the extra deep")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", LOWEST_HIGHEST)
def test_every_sample_format_of_a_tiff(tifffile: Any, dtype: str, order: str, packed: bool) -> None:
    assert first_row(tiff(ramp(dtype), order, packed=packed)) == LEVELS
    white = tiff(ramp(dtype), order, zero_is_white=True, packed=packed)
    assert first_row(white) == [255 - level for level in LEVELS]
    assert np.asarray(load_image(tiff(colour(dtype), order, packed=packed)))[0, :4].tolist() == [
        [0, 153, 0],
        [255, 51, 0],
        [51, 255, 0],
        [153, 0, 0],
    ]


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiles_planes_and_odd_numbers_of_bits(tifffile: Any, compression: str | None) -> None:
    def written(values: np.ndarray, **options: Any) -> bytes:
        stream = io.BytesIO()
        try:
            tifffile.imwrite(stream, values, compression=compression, **options)
        except NotImplementedError:
            pytest.skip("this imagecodecs writes no odd numbers of bits")
        return stream.getvalue()

    grey = ramp("uint32")
    assert first_row(written(grey, photometric="minisblack", tile=(16, 16))) == LEVELS
    planes = np.moveaxis(colour(), 2, 0)
    image = load_image(written(planes, photometric="rgb", planarconfig="separate"))
    assert image.getpixel((2, 0)) == (51, 255, 0)
    if compression is None:
        assert first_row(written(ramp("uint16"), photometric="minisblack", bitspersample=12)) == (
            LEVELS
        )


def test_one_range_for_all_channels_keeps_their_balance(imagecodecs: Any, tifffile: Any) -> None:
    # 0x00FF is the lowest, 0xFFFF the highest: (0x1234 - 0xFF) / (0xFFFF - 0xFF) * 255 = 17.2
    flat = np.tile(np.array([0x1234, 0xFFFF, 0x00FF], dtype=np.uint16), (16, 16, 1))
    for data in (tiff(flat), tiff(flat, ">"), png16(flat, 2)):
        assert load_image(data).getpixel((3, 3)) == (17, 255, 0)
        # 0x1234 = 4660: 660 / 1000 * 255 = 168.3
        assert load_image(data, window=(4000, 5000)).getpixel((3, 3)) == (168, 255, 0)


def test_deep_png_in_colour_and_with_transparency(imagecodecs: Any) -> None:
    grey = ramp("uint16")
    assert first_row(png16(colour(), 2)) == LEVELS
    full = np.full_like(grey, 65535)
    assert first_row(png16(np.stack([grey, full], axis=2), 4)) == LEVELS
    assert first_row(png16(np.dstack([colour(), full]), 6)) == LEVELS
    # Half of 255, 51 and 153: .5 * 51 = 25.5, with an alpha of 128 / 255: 25.6
    half = np.full_like(grey, 32768)
    assert first_row(png16(np.stack([grey, half], axis=2), 4)) == [0, 128, 26, 77]


def test_what_is_transparent_is_black_and_no_part_of_the_range(imagecodecs: Any) -> None:
    grey = ramp("uint16")
    opaque = np.full_like(grey, 65535)
    grey[5, 5], opaque[5, 5] = 60000, 0
    image = load_image(png16(np.stack([grey, opaque], axis=2), 4))
    assert np.asarray(image)[0, :4, 0].tolist() == LEVELS
    assert image.getpixel((5, 5)) == (0, 0, 0)
    plain = png16(grey, 0)
    place = plain.index(b"IDAT") - 4
    keyed = plain[:place] + chunk(b"tRNS", struct.pack(">H", 60000)) + plain[place:]
    assert first_row(keyed) == LEVELS
    assert load_image(keyed).getpixel((5, 5)) == (0, 0, 0)


def test_a_deep_image_of_which_nothing_is_seen_is_refused(imagecodecs: Any) -> None:
    grey = ramp("uint16")
    data = png16(np.stack([grey, np.zeros_like(grey)], axis=2), 4)
    assert "every pixel is transparent" in error_of(data)


def test_a_damaged_deep_png_is_refused(imagecodecs: Any) -> None:
    data = png16(np.random.default_rng(0).integers(0, 65536, (32, 32, 3), dtype=np.uint16), 2)
    assert "damaged" in error_of(data[: len(data) // 2])
    place = len(data) // 2
    assert "damaged" in error_of(data[:place] + b"abcd" + data[place + 4 :])


@pytest.mark.parametrize("container", ["jp2", "j2k"])
def test_jpeg_2000_above_8_bits(imagecodecs: Any, container: str) -> None:
    for dtype, bits in (("uint16", 12), ("uint16", 16), ("int16", 16), ("int8", 8)):
        values = ramp(dtype)
        data = imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, codecformat=container, bitspersample=bits
        )
        assert first_row(data) == LEVELS
        low, high = LOWEST_HIGHEST[dtype]
        assert first_row(data, window=(low, low + 2 * (high - low))) == [0, 128, 26, 76]


@pytest.mark.parametrize(("kind", "channels"), [("5", 1), ("6", 3)])
def test_netpbm_above_8_bits(kind: str, channels: int) -> None:
    values = ramp("uint16") if channels == 1 else colour()
    header = f"P{kind}\n# note\n16 16\n4095\n".encode()
    data = header + values.astype(">u2").tobytes()
    assert first_row(data) == LEVELS
    assert first_row(data, window=(0, 8190)) == [0, 128, 26, 76]
    assert "incomplete" in error_of(data[:-2])


def test_orientation_counts_for_deep_samples_too(imagecodecs: Any, tifffile: Any) -> None:
    # 6: the first row is the right column
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, ramp("uint32"), photometric="minisblack", extratags=[(274, 3, 1, 6, True)]
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = png16(colour(), 2)
    place = plain.index(b"IDAT") - 4
    turned = plain[:place] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[place:]
    for data in (stream.getvalue(), turned):
        assert np.asarray(load_image(data))[:4, 15, 0].tolist() == LEVELS


def test_a_page_of_a_deep_tiff_is_read_by_its_number(tifffile: Any) -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for factor in (1, 2):
            file.write(ramp("uint32") // factor, photometric="minisblack")
    data = stream.getvalue()
    assert "2 frames" in error_of(data)
    assert first_row(data, frame=2) == LEVELS
    # Halves, rounded down: 2147483647 is a little less than 127.5, 429496729 than 25.5.
    assert first_row(data, frame=2, window=(0, 4294967295)) == [0, 127, 25, 76]
    assert "no frame 3" in error_of(data, frame=3)


NAMED = {
    "1 x 8-bit signed integer": tiff(ramp("int8")),
    "1 x 32-bit unsigned integer": tiff(ramp("uint32")),
    "1 x 64-bit floating point": tiff(ramp("float64")),
    "3 x 16-bit unsigned integer": tiff(colour()),
    "1 x 16-bit signed integer, zero is white": tiff(ramp("int16"), zero_is_white=True),
    "2 x 16-bit unsigned integer": png16(np.stack([ramp("uint16")] * 2, axis=2), 4),
}


@pytest.mark.parametrize("name", NAMED)
def test_without_the_extra_the_sample_format_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("tifffile", "imagecodecs"):
        monkeypatch.setitem(sys.modules, package, None)
    text = error_of(NAMED[name])
    assert f"({name})" in text
    assert 'pip install "mrrag-llamaindex[deep]"' in text


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"values": np.zeros((16, 16), np.complex64)}, "complex"),
        ({"values": np.zeros((16, 16, 4), np.uint16), "photometric": "separated"}, "CMYK"),
        ({"values": np.zeros((16, 16, 5), np.uint16), "photometric": "minisblack"}, "5 x 16-bit"),
        ({"values": np.zeros((16, 16, 5), np.uint8), "photometric": "minisblack"}, "5 x 8-bit"),
    ],
)
def test_a_tiff_that_is_neither_grey_nor_rgb_is_named(
    tifffile: Any, options: dict[str, Any], name: str
) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, options.pop("values"), planarconfig="contig", **options)
    text = error_of(stream.getvalue())
    assert "sample format" in text
    assert name in text


def test_lab_is_named() -> None:
    lab = Image.new("LAB", (16, 16))
    assert "Lab" in error_of(encoded(lab, "TIFF"))
    assert "Lab" in error_of(lab)


def test_an_open_image_whose_samples_pillow_has_cut_is_refused() -> None:
    for data in (tiff(ramp("int8")), png16(colour(), 2), tiff(colour())):
        with Image.open(io.BytesIO(data)) as opened:
            assert "give its path or bytes" in error_of(opened)
    with Image.open(io.BytesIO(tiff(ramp("uint16")))) as opened:
        assert first_row(opened) == LEVELS


def test_a_channel_that_is_left_out_is_noted(tifffile: Any) -> None:
    stream = io.BytesIO()
    values = np.full((16, 16, 4), 9, dtype=np.uint8)
    tifffile.imwrite(stream, values, photometric="rgb", extrasamples=["unspecified"])
    with pytest.warns(ImageWarning, match="^image: a channel"):
        assert load_image(stream.getvalue()).getpixel((1, 1)) == (9, 9, 9)
