"""`images`: what comes out is whole, RGB and upright; what cannot be, is refused by name."""

from __future__ import annotations

import hashlib
import struct
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import image_digest, load_image, pad_to_square
from tests.images.making import chunk, encoded, film, tiff


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_path_bytes_and_open_image_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(film()))
    sources = [path, str(path), path.read_bytes(), film()]
    images = [load_image(source) for source in sources]
    assert all(image.mode == "RGB" for image in images)
    assert all(np.array_equal(np.asarray(image), np.asarray(film())) for image in images)


def test_an_open_image_is_not_changed_and_not_shared() -> None:
    source = film()
    result = load_image(source)
    result.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(source), np.asarray(film()))


BAD = {
    "empty": (b"", "empty"),
    "text": (b"Heart size is normal." * 20, "not an image"),
    "dicom": (b"\0" * 128 + b"DICM" + b"\0" * 64, "DICOM"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "1 x 1 pixels is too small"),
    "a line": (encoded(Image.new("L", (500, 4))), "500 x 4 pixels is too small"),
    "bomb": (bomb(), "more pixels"),
    "half a png": (encoded(film())[: len(encoded(film())) // 2], "incomplete"),
    "half a jpeg": (encoded(film(), "JPEG")[: len(encoded(film(), "JPEG")) // 2], "incomplete"),
    "jpeg less its last bytes": (encoded(film(), "JPEG")[:-30], "incomplete"),
    "header only": (encoded(film(), "JPEG")[:20], "image"),
    "half a gif": (encoded(film(), "GIF")[:900], "incomplete"),
    "half a tiff": (encoded(film(), "TIFF", compression="tiff_deflate")[:3000], "image"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("from_file", [False, True], ids=["bytes", "file"])
def test_a_bad_image_is_refused_in_one_line_without_its_path(
    name: str, from_file: bool, tmp_path: Path
) -> None:
    data, reason = BAD[name]
    path = tmp_path / "Miller^Anna.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(path if from_file else data, what="query image")
    assert str(caught.value).startswith("query image: ")
    assert "\n" not in str(caught.value)
    # Not the message alone: what a log prints of the whole chain must not name the patient either.
    assert "Miller" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("source", ["nowhere/a.png", Path("nowhere/a.png"), "bad\0name.png"])
def test_a_missing_file_is_refused(source: str | Path) -> None:
    with pytest.raises(ImageError, match=r"^pair p7: the file ") as caught:
        load_image(source, what="pair p7")
    assert "nowhere" not in str(caught.value)


def test_a_folder_a_web_address_and_a_wrong_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a file"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="web address"):
        load_image("https://example.org/a.png")
    with pytest.raises(ImageError, match="not int"):
        load_image(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncation_is_seen_even_if_the_application_tells_pillow_to_accept_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(film(), kind)
    assert load_image(data).size == (64, 48)
    with pytest.raises(ImageError, match="incomplete"):
        load_image(data[: len(data) // 2])


def test_the_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "MAX_IMAGE_PIXELS", 1000)
    whole = encoded(film(40, 30))
    with pytest.raises(ImageError, match=r"limit 1,000"):
        load_image(whole[: len(whole) // 2])  # decoding it would have said "incomplete"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_black(mode: str) -> None:
    image = Image.new(mode, (16, 16), (200, 200, 200, 128) if mode == "RGBA" else (200, 128))
    # 200 * 128 / 255 = 100.4
    assert abs(load_image(encoded(image)).getpixel((3, 3))[0] - 100) <= 1


def test_a_palette_with_a_transparent_entry_becomes_black_there() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((5, 5), 1)
    plain = load_image(encoded(image))
    assert plain.getpixel((0, 0)) == (10, 20, 30)
    assert plain.getpixel((5, 5)) == (200, 100, 50)
    clear = load_image(encoded(image, transparency=0))
    assert clear.getpixel((0, 0)) == (0, 0, 0)
    assert clear.getpixel((5, 5)) == (200, 100, 50)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (16, 16), 77), (77, 77, 77)),
        (Image.new("1", (16, 16), 1), (255, 255, 255)),
        (Image.new("CMYK", (16, 16), (0, 0, 0, 255)), (0, 0, 0)),
    ],
    ids=["grey", "bilevel", "cmyk"],
)
def test_other_modes_become_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    result = load_image(encoded(image, "TIFF"))
    assert result.mode == "RGB"
    assert result.getpixel((2, 2)) == expected


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("uint16", "PNG"), ("uint16", "TIFF"), ("int32", "TIFF"), ("float32", "TIFF")],
)
def test_deep_pixels_are_mapped_from_their_own_range(dtype: str, kind: str) -> None:
    # 12-bit values: minimum 1000 -> 0, maximum 4000 -> 255, 1600 -> 600 / 3000 * 255 = 51
    values = np.full((16, 16), 1600, dtype=dtype)
    values[0, 0], values[0, 1] = 1000, 4000
    result = np.asarray(load_image(encoded(Image.fromarray(values), kind)))
    assert result[0, 0].tolist() == [0, 0, 0]
    assert result[0, 1].tolist() == [255, 255, 255]
    assert result[5, 5].tolist() == [51, 51, 51]


def test_a_deep_image_of_one_value_is_black_and_one_with_nan_is_refused() -> None:
    flat = Image.fromarray(np.full((16, 16), 3000, dtype=np.uint16))
    assert np.asarray(load_image(encoded(flat))).max() == 0
    values = np.zeros((16, 16), dtype=np.float32)
    values[3, 3] = np.nan
    with pytest.raises(ImageError, match="not finite"):
        load_image(Image.fromarray(values))


def deep(dtype: str = "uint16") -> np.ndarray:
    # 12-bit values: minimum 1000, maximum 4000, 1600 -> 600 / 3000 * 255 = 51
    values = np.full((16, 16), 1600, dtype=dtype)
    values[0, :2] = 1000, 4000
    return values


def first_row(data: bytes, count: int, **options: Any) -> list[int]:
    return np.asarray(load_image(data, **options))[0, :count, 0].tolist()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_deep_tiff_in_which_zero_is_white_is_inverted(dtype: str, packed: bool) -> None:
    assert first_row(tiff(deep(dtype), packed=packed), 3) == [0, 255, 51]
    white = tiff(deep(dtype), zero_is_white=True, packed=packed)
    assert first_row(white, 3) == [255, 0, 204]
    # The window is one of stored values: 1600 is (1600 - 1000) / 1000 of the way to black.
    assert first_row(white, 3, window=(1000, 2000)) == [255, 0, 102]


def test_a_tiff_of_8_bits_in_which_zero_is_white_is_inverted_once() -> None:
    values = np.full((16, 16), 50, dtype=np.uint8)
    assert first_row(tiff(values, zero_is_white=True), 1) == [205]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_deep_tiff_gives_the_same_levels_in_either_byte_order(dtype: str, order: str) -> None:
    values = deep(dtype)
    if values.dtype.kind != "u":
        values -= 2500
    assert first_row(tiff(values, order), 3) == [0, 255, 51]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_window_maps_deep_pixels_and_clips_beyond(kind: str) -> None:
    data = encoded(Image.fromarray(deep()), kind)
    # 1300..2800: 300 / 1500 * 255 = 51
    assert first_row(data, 3, window=(1300, 2800)) == [0, 255, 51]
    assert first_row(data, 3, window=(0, 65535)) == [4, 16, 6]
    flat = encoded(Image.fromarray(np.full((16, 16), 3000, dtype=np.uint16)), kind)
    assert first_row(flat, 1, window=(0, 5000)) == [153]


def test_a_window_maps_each_channel_of_an_8_bit_image() -> None:
    # 51..102: 68 -> 17 / 51 * 255 = 85
    colour = Image.new("RGB", (16, 16), (40, 68, 110))
    assert load_image(encoded(colour), window=(51, 102)).getpixel((3, 3)) == (0, 85, 255)
    assert load_image(colour, window=(51, 102)).getpixel((3, 3)) == (0, 85, 255)
    grey = load_image(Image.new("L", (16, 16), 68), window=(51, 102))
    assert (grey.mode, grey.getpixel((3, 3))) == ("RGB", (85, 85, 85))


@pytest.mark.parametrize(
    "window",
    [(5, 5), (6, 5), (0, float("nan")), (float("-inf"), 1), (1,), (1, 2, 3), 7, ("a", "b")],
)
def test_a_window_that_is_none_is_refused_before_the_image_is_opened(window: Any) -> None:
    with pytest.raises(ImageError, match=r"^query image: a window is two "):
        load_image("nowhere.png", what="query image", window=window)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((250, 250, 250), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for display
    upright = load_image(encoded(image, "PNG", exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (250, 250, 250)
    assert upright.getpixel((10, 35)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_frames_are_refused_with_their_number(kind: str) -> None:
    data = encoded(
        film(), kind, save_all=True, append_images=[film().rotate(turn) for turn in (90, 180)]
    )
    with pytest.raises(ImageError, match="3 frames"):
        load_image(data)


def test_the_first_picture_of_an_mpo_is_taken() -> None:
    data = encoded(film(), "MPO", save_all=True, append_images=[film().rotate(180)])
    assert load_image(data).size == (64, 48)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    data = encoded(film())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert image_digest(path) == image_digest(data) == hashlib.sha256(data).hexdigest()


def test_the_digest_of_an_open_image_follows_pixels_size_mode_and_palette() -> None:
    wide, tall = Image.new("L", (20, 30)), Image.new("L", (30, 20))
    changed = wide.copy()
    changed.putpixel((0, 0), 1)
    red, blue = Image.new("P", (20, 30)), Image.new("P", (20, 30))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    images = [wide, tall, changed, red, blue, wide.convert("RGB")]
    assert len({image_digest(image) for image in images}) == len(images)
    assert image_digest(wide) == image_digest(wide.copy())


def test_the_digest_of_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^pair p1: the file does not exist"):
        image_digest(tmp_path / "none.png", what="pair p1")
    with pytest.raises(ImageError, match="empty"):
        image_digest(b"")


def test_padding_keeps_the_whole_film_in_the_middle_of_a_square() -> None:
    wide = film(60, 20)
    square = pad_to_square(wide, (0.5, 0.25, 0.0))
    assert square.size == (60, 60)
    assert np.array_equal(np.asarray(square)[20:40], np.asarray(wide))
    assert square.getpixel((0, 0)) == (127, 63, 0)
    tall = pad_to_square(film(20, 60), (0.0, 0.0, 0.0))
    assert np.array_equal(np.asarray(tall)[:, 20:40], np.asarray(film(20, 60)))


def test_padding_has_the_colour_that_llava_pads_with() -> None:
    # int(255 * mean) of CLIP's means, as in LLaVA's expand2square: 122.77, 116.75, 104.09
    clip = (0.48145466, 0.4578275, 0.40821073)
    assert pad_to_square(film(60, 20), clip).getpixel((0, 0)) == (122, 116, 104)
    assert pad_to_square(film(60, 20), (0.4, 0.4, 0.4)).getpixel((0, 0)) == (102, 102, 102)


def test_padding_is_that_of_transformers_for_llava() -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    processor = LlavaImageProcessorPil(
        do_pad=True,
        do_resize=False,
        do_center_crop=False,
        do_rescale=False,
        do_normalize=False,
    )
    for size in [(61, 20), (20, 61), (33, 30)]:
        theirs = processor(images=film(*size), return_tensors="np")["pixel_values"][0]
        ours = np.asarray(pad_to_square(film(*size), processor.image_mean))
        assert np.array_equal(ours, np.moveaxis(np.asarray(theirs), 0, -1))


def test_an_odd_difference_of_sides_leaves_the_wider_border_at_the_end() -> None:
    square = np.asarray(pad_to_square(Image.new("RGB", (21, 16), (9, 9, 9)), (0, 0, 0)))
    assert (square[:2] == 0).all()
    assert (square[2:18] == 9).all()
    assert (square[18:] == 0).all()
