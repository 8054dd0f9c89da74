"""Formats that are not read, damage that would be shown, memory that would be taken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import load_image
from tests.images.making import chunk, encoded, film, tiff


def error_of(data: Any, **options: Any) -> str:
    with pytest.raises(ImageError, match=r"^image: ") as caught:
        load_image(data, **options)
    return str(caught.value)


# Formats -----------------------------------------------------------------------------------------

FOREIGN = {
    "NIfTI": struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(8),
    "NIfTI (.nii.gz)": b"\x1f\x8b\x08" + bytes(30),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(30),
    "AVIF": b"\0\0\0\x18ftypavif" + bytes(30),
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30),
    "PostScript (EPS)": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b"  <svg xmlns='http://www.w3.org/2000/svg'/>",
    "NRRD": b"NRRD0004\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_format_that_is_not_read_is_named(name: str) -> None:
    text = error_of(FOREIGN[name])
    assert name in text
    assert "save" in text


def test_a_bare_jpeg_xl_codestream_is_named() -> None:
    assert "JPEG XL" in error_of(b"\xff\x0a" + bytes(30))


def test_an_eps_never_reaches_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def start(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    eps = encoded(Image.new("RGB", (32, 32)), "EPS")
    assert "PostScript" in error_of(eps)
    # Pillow knows it by these bytes as well.
    assert "PostScript" in error_of(b"\xc5\xd0\xd3\xc6" + bytes(30))


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "SGI", "DDS", "IM"])
def test_only_formats_on_the_list_are_opened(kind: str) -> None:
    assert "not an image that can be read" in error_of(encoded(Image.new("L", (32, 32)), kind))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM"])
def test_formats_on_the_list_keep_their_levels(kind: str) -> None:
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    options = {"lossless": True} if kind == "WEBP" else {}
    image = load_image(encoded(Image.fromarray(grey), kind, **options))
    assert np.array_equal(np.asarray(image)[..., 0], grey)


# JPEG --------------------------------------------------------------------------------------------


def jpeg(mode: str = "L", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(60, 190, (128, 128), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).convert(mode), "JPEG", quality=90, **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_damage_of_which_libjpeg_only_warns_is_refused(mode: str, options: dict[str, Any]) -> None:
    data = jpeg(mode, **options)
    assert load_image(data).size == (128, 128)
    assert load_image(data + b"what follows the end does not count").size == (128, 128)
    half = len(data) // 2
    for damaged in (
        data[:half] + bytes(2000) + data[half + 2000 :],
        data[:half] + bytes(len(data) - half - 2) + data[-2:],
        data[:half],
        data[:half] + b"\xff\xd9",
        data[:-2] + b"too much" + data[-2:],
    ):
        assert "JPEG data is damaged or incomplete" in error_of(damaged)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_damage_to_a_jpeg_inside_a_tiff_is_refused(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (256, 256), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels).convert(mode), "TIFF", compression="jpeg")
    assert load_image(data).size == (256, 256)
    half = len(data) // 2
    damaged = data[:half] + bytes(500) + data[half + 500 :]
    assert "JPEG data is damaged" in error_of(damaged)


def test_a_progressive_jpeg_without_all_of_its_scans_is_refused() -> None:
    data = jpeg(progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 2
    assert load_image(data).size == load_image(jpeg()).size
    for start in scans[1:]:  # whole scans, and the end marker: no decoder warns
        assert "JPEG data is damaged" in error_of(data[:start] + b"\xff\xd9")


def test_damage_to_deflate_inside_a_tiff_is_refused() -> None:
    data = encoded(film(), "TIFF", compression="tiff_adobe_deflate")
    place = data.index(np.asarray(film())[20].tobytes()[-60:])  # noise is stored as it is
    assert load_image(data).size == (64, 48)
    assert "damaged" in error_of(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_a_png_whose_pixels_do_not_have_their_checksum_is_refused() -> None:
    data = encoded(film())
    end = data.index(b"IEND") - 5  # last byte of the checksum of the pixels
    assert "damaged" in error_of(data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_image_of_which_nothing_is_seen_is_refused(mode: str) -> None:
    image = film().convert(mode)
    image.putalpha(0)
    assert "every pixel is transparent" in error_of(encoded(image))
    image.putpixel((3, 4), (*image.getpixel((3, 4))[:-1], 255))
    assert np.count_nonzero(np.asarray(load_image(encoded(image))).any(axis=-1)) == 1


@pytest.mark.parametrize("rows_per_strip", [1, 5, 48])
@pytest.mark.parametrize("planes", [False, True])
def test_a_tiff_whose_size_and_strips_disagree_is_refused(
    rows_per_strip: int, planes: bool
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra deep")
    stream, values = io.BytesIO(), np.asarray(film(64, 48))
    tifffile.imwrite(
        stream,
        np.moveaxis(values, 2, 0) if planes else values,
        photometric="rgb",
        planarconfig="separate" if planes else "contig",
        rowsperstrip=rows_per_strip,
    )
    data = stream.getvalue()
    assert np.array_equal(load_image(data), values)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = {
            name: file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")
        }
    for name, wrong in (("ImageWidth", 60), ("ImageWidth", 66), ("ImageLength", 40)):
        place = places[name]
        damaged = data[:place] + struct.pack("<H", wrong) + data[place + 2 :]
        assert "its strips hold other numbers of bytes" in error_of(damaged)


def test_strips_may_be_padded_or_leave_their_bytes_unsaid() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = tiff(values)
    place = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    for length in (0, values.nbytes):
        stated = data[:place] + struct.pack("<I", length) + data[place + 4 :]
        assert np.array_equal(load_image(stated), load_image(data))
    odd = tiff(np.arange(17 * 17, dtype=np.int32).reshape(17, 17).astype(np.uint8))
    padded = odd[:place] + struct.pack("<I", 17 * 17 + 3) + odd[place + 4 :] + bytes(3)
    assert np.array_equal(load_image(padded), load_image(odd))


def test_a_jpeg_of_another_kind_is_named() -> None:
    data = jpeg()
    place = data.index(b"\xff\xc0")
    assert "12 bits" in error_of(data[: place + 4] + b"\x0c" + data[place + 5 :])
    assert "lossless" in error_of(data[: place + 1] + b"\xc3" + data[place + 2 :])
    assert "JPEG-LS" in error_of(data[: place + 1] + b"\xf7" + data[place + 2 :])


def test_a_cut_jpeg_2000_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "JPEG2000")
    assert "incomplete" in error_of(data[: len(data) // 2])


# Memory ------------------------------------------------------------------------------------------


def png_header(side: int, bits: int, kind: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "kind", "side", "per_pixel"),
    [
        # As decoded, and RGB; 16 bits have 8-bit levels between.
        (1, 0, 13000, 1 + 4),
        (8, 0, 13000, 1 + 4),
        (16, 0, 9000, 2 + 2 + 4),
        (8, 2, 9000, 4 + 4),
        (8, 6, 6000, 4 + 4 + 13),
        (16, 2, 5000, 3 * (2 * 2 + 1) + 8),
    ],
)
def test_memory_is_limited_before_anything_is_decoded(
    bits: int, kind: int, side: int, per_pixel: int
) -> None:
    expected = side * side * per_pixel / 2**20
    assert expected > 512
    text = error_of(png_header(side, bits, kind))
    assert f"{expected:,.0f} MiB" in text
    assert "limit 512 MiB" in text


def test_a_radiograph_is_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # The largest mammograms: 4728 x 5928, 16 bits, 28 million pixels * 8 bytes = 214 MiB.
    assert defaults.MAX_DECODING_BYTES / 2 > 4728 * 5928 * (2 + 2 + 4)
    monkeypatch.setattr(defaults, "MAX_DECODING_BYTES", 32 * 32 * 5)
    assert load_image(encoded(Image.new("L", (32, 32)))).size == (32, 32)
    assert "memory" in error_of(encoded(Image.new("L", (32, 33))))


def test_a_tile_larger_than_its_page_is_refused() -> None:
    # Width, height, bits, compression, photometric, samples, tile width and height, tile.
    tags = [
        (256, 32),
        (257, 32),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 40000),
        (323, 40000),
    ]
    tags += [(324, 150), (325, 8)]
    data = b"II*\0" + struct.pack("<IH", 8, len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    assert "1,526 MiB" in error_of(data + bytes(40))  # 40000 * 40000 / 2**20


# Frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_a_frame_is_read_by_its_number(kind: str) -> None:
    frames = [Image.new("L", (32, 32), 40 * number) for number in range(1, 4)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    for number in (1, 2, 3):
        assert load_image(data, frame=number).getpixel((5, 5)) == (40 * number,) * 3
    assert "3 frames; there is no frame 4" in error_of(data, frame=4)
    assert "--frame" in error_of(data)


def test_a_single_image_has_frame_1_only() -> None:
    image = Image.new("L", (32, 32), 7)
    for source in (image, encoded(image)):
        assert load_image(source, frame=1).getpixel((0, 0)) == (7, 7, 7)
        assert "no frame 2" in error_of(source, frame=2)
    for wrong in (0, -1, 1.0, True):
        assert "a whole number from 1" in error_of(image, frame=wrong)
