"""`stored`: the value of a sample lies in the bits that High Bit and Bits Stored name."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", "3.0", reason="DICOM is read through pydicom 3")

from pydicom import uid  # noqa: E402

from mrrag_llamaindex import defaults  # noqa: E402
from mrrag_llamaindex.images.load import load_image  # noqa: E402
from tests.images.dicom.making import dicom, error_of, noted, packed, row, saved, shown  # noqa: E402

NATIVE = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]
# Allocated, stored, high: low and high ends of a sample, and between.
LAYOUTS = [(8, 8, 7), (8, 5, 4), (8, 5, 7), (16, 12, 11), (16, 12, 15), (16, 10, 12), (32, 20, 25)]


def samples(allocated: int, stored: int, high: int, signed: bool) -> np.ndarray:
    """Four values, a fifth of the range apart, in samples whose other bits are all set.

    Lowest, lowest + 1/5, + 3/5 and highest: to be shown as 0, 51, 153, 255.
    """
    lowest = -(1 << (stored - 1)) if signed else 0
    span = (1 << stored) - 1
    values = lowest + np.round(np.array([0, 1, 3, 5]) * span / 5).astype(np.int64)
    low = high + 1 - stored
    field = (values & span) << low
    others = ((1 << allocated) - 1) & ~(span << low)
    image = np.full((16, 16), field[0] | others, dtype=np.int64)
    image[0, :4] = field | others
    return image.astype(f"u{allocated // 8}")


def with_layout(image: np.ndarray, stored: int, high: int, signed: bool) -> Any:
    dataset = dicom(np.zeros(image.shape, dtype=np.uint16))
    dataset.PixelData = image.tobytes()
    dataset.BitsAllocated = 8 * image.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = stored, high
    dataset.PixelRepresentation = int(signed)
    return dataset


def near(levels: list[int], expected: list[int]) -> bool:
    # 5 bits hold 32 values: a fifth of 31 is rounded, to within 4 levels of 255.
    return max(abs(a - b) for a, b in zip(levels, expected, strict=True)) <= 4


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("allocated", "stored", "high"), LAYOUTS)
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_the_value_lies_below_high_bit_and_other_bits_do_not_count(
    syntax: Any, allocated: int, stored: int, high: int, signed: bool
) -> None:
    image = samples(allocated, stored, high, signed)
    dataset = with_layout(image, stored, high, signed)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        words = image.astype(image.dtype.newbyteorder(">"))
        # Bytes are kept in words, which have their upper half first.
        dataset.PixelData = (
            words.view("<u2").byteswap().tobytes() if allocated == 8 else (words.tobytes())
        )
        dataset["PixelData"].VR = "OW"
    assert near(shown(dataset, 4), [0, 51, 153, 255])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("allocated", "stored", "high"), LAYOUTS[:-1])
def test_so_it_does_in_rle(allocated: int, stored: int, high: int, signed: bool) -> None:
    dataset = dicom(samples(allocated, stored, high, signed))
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = stored, high
    dataset.PixelRepresentation = int(signed)
    assert near(shown(dataset, 4), [0, 51, 153, 255])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("allocated", "stored", "high"), LAYOUTS[:-1])
def test_so_it_does_in_jpeg_2000(allocated: int, stored: int, high: int, signed: bool) -> None:
    image = samples(allocated, stored, high, signed)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    dataset = with_layout(image, stored, high, signed)
    packed(dataset, [stream.getvalue()], uid.JPEG2000Lossless)
    assert near(shown(dataset, 4), [0, 51, 153, 255])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    ("syntax", "codec"),
    [
        (uid.JPEGLosslessSV1, "ljpeg"),
        (uid.JPEGLSLossless, "jpegls"),
        (uid.JPEG2000Lossless, "jpeg2k"),
    ],
)
def test_lossless_compressions_give_signed_and_unsigned_values(
    syntax: Any, codec: str, signed: bool
) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    pytest.importorskip("gdcm", reason="lossless JPEG is read through python-gdcm")
    options = {
        "ljpeg": {"bitspersample": 16},
        "jpegls": {},
        "jpeg2k": {"codecformat": "j2k", "level": 0, "reversible": True},
    }[codec]
    for stored, high in ((16, 15), (12, 11), (12, 15)):
        image = samples(16, stored, high, signed)
        stream = getattr(imagecodecs, f"{codec}_encode")(image, **options)
        dataset = packed(with_layout(image, stored, high, signed), [stream], syntax)
        assert near(shown(dataset, 4), [0, 51, 153, 255])


def test_a_codestream_of_12_bits_has_no_bits_left_over() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    image = row(0, 819, 2457, 4095)
    stream = imagecodecs.jpeg2k_encode(
        image, level=0, reversible=True, codecformat="j2k", bitspersample=12
    )
    for high in (11, 15):
        dataset = packed(with_layout(image, 12, high, False), [stream], uid.JPEG2000Lossless)
        assert shown(dataset, 4) == [0, 51, 153, 255]


def test_colour_of_12_bits_at_the_upper_end_is_scaled_by_its_bits() -> None:
    flat = np.tile(np.array([0, 819, 4095], dtype=np.uint16) << 4, (16, 16, 1))
    dataset = dicom(flat, "RGB")
    dataset.BitsStored, dataset.HighBit = 12, 15
    assert load_image(saved(dataset)).getpixel((5, 5)) == (0, 51, 255)


def test_planes_and_single_bits() -> None:
    flat = np.tile(np.array([10, 20, 30], dtype=np.uint8), (16, 16, 1))
    dataset = dicom(flat, "RGB")
    dataset.PlanarConfiguration = 1
    dataset.PixelData = np.moveaxis(flat, 2, 0).tobytes()
    assert load_image(saved(dataset)).getpixel((5, 5)) == (10, 20, 30)
    bits = dicom(row(0, 1, 1, 0, dtype="uint8"))
    bits.BitsAllocated = bits.BitsStored = 1
    bits.HighBit = 0
    bits.PixelData = np.packbits(row(0, 1, 1, 0, dtype="uint8"), bitorder="little").tobytes()
    assert shown(bits, 4) == [0, 255, 255, 0]


@pytest.mark.parametrize(("name", "kind"), [("Float", "float32"), ("DoubleFloat", "float64")])
def test_float_pixels(name: str, kind: str) -> None:
    dataset = dicom(row(0))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.BitsAllocated = 32 if kind == "float32" else 64
    image = np.full((16, 16), -1.0)
    image[0, :4] = [-1, -0.5, 0, 1.5]  # 0.5 / 2.5 * 255 = 51; 1 / 2.5 * 255 = 102
    setattr(dataset, f"{name}PixelData", image.astype(kind).tobytes())
    assert shown(dataset, 4) == [0, 51, 102, 255]
    image[5, 5] = np.nan
    setattr(dataset, f"{name}PixelData", image.astype(kind).tobytes())
    assert "not finite" in error_of(saved(dataset))


# Frames ------------------------------------------------------------------------------------------


def film() -> Any:
    """Three frames whose first row begins with 0, 255 and ten times the frame's number."""
    frames = np.zeros((3, 16, 16), dtype=np.uint8)
    for number, frame in enumerate(frames, start=1):
        frame[0, :3] = 0, 255, 10 * number
    return dicom(frames)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_one_frame_of_several_is_read_by_its_number(syntax: Any) -> None:
    dataset = film()
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    assert [shown(dataset, 3, frame=number)[2] for number in (1, 2, 3)] == [10, 20, 30]
    assert "3 frames; there is no frame 4" in error_of(saved(dataset), frame=4)
    assert "--frame" in error_of(saved(dataset))


def test_each_frame_of_an_enhanced_object_has_its_own_rescale_and_window() -> None:
    frames = np.zeros((2, 16, 16), dtype=np.uint16)
    frames[:, 0, :4] = 0, 100, 200, 300
    dataset = dicom(frames)
    groups = []
    for slope, centre in ((1, 100), (2, 300)):
        group, rescale, window = (pydicom.Dataset() for _ in range(3))
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = centre, 200
        window.VOILUTFunction = "LINEAR_EXACT"
        group.PixelValueTransformationSequence = [rescale]
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    # 0..200 of stored values; then 200..400 of doubled ones, of which 300 is 150.
    assert shown(dataset, 4, frame=1) == [0, 128, 255, 255]
    assert shown(dataset, 4, frame=2) == [0, 0, 255, 255]


def test_a_single_frame_has_the_number_1() -> None:
    assert shown(dicom(row(0, 255)), 2, frame=1) == [0, 255]
    assert "1 frame; there is no frame 2" in error_of(saved(dicom(row(1))), frame=2)
    assert "whole number from 1" in error_of(saved(dicom(row(1))), frame=0)


# What is refused ---------------------------------------------------------------------------------


def test_memory_is_limited_before_anything_is_decoded() -> None:
    dataset = dicom(row(0, 255))
    dataset.Rows = dataset.Columns = 8000
    text = error_of(saved(dataset))
    # 64 million pixels, twice 2 bytes as decoded, 1 of grey, 4 of RGB: 9 * 64e6 / 2**20 = 549
    assert "549 MiB" in text
    assert "limit 512 MiB" in text


def test_inflating_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dicom(row(0, 255))
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.PixelData += bytes(3 * 2**20)
    monkeypatch.setattr(defaults, "MAX_DECODING_BYTES", 2 * 2**20)
    assert "deflated" in error_of(data := saved(dataset))
    monkeypatch.setattr(defaults, "MAX_DECODING_BYTES", 2**29)
    assert "damaged" in error_of(data[: len(data) // 2])
    assert len(data) < 2**14 < len(zlib.compress(data)) * 2**6


def test_damage_of_which_a_jpeg_decoder_only_warns_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    whole, middle = stream.getvalue(), len(stream.getvalue()) // 2
    zeros = whole[:middle] + bytes(300) + whole[middle + 300 :]
    assert len(noted(saved(packed(dicom(pixels), [whole], uid.JPEGBaseline8Bit)))[0]) == 4
    for damaged in (zeros, whole[:middle] + b"\xff\xd9"):
        data = saved(packed(dicom(pixels), [damaged], uid.JPEGBaseline8Bit))
        assert "JPEG data is damaged" in error_of(data)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_lossless_jpeg_keeps_the_bits_above_those_that_are_stored_at_the_lower_end(
    signed: bool,
) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    pytest.importorskip("gdcm", reason="lossless JPEG is read through python-gdcm")
    # 12 bits at the upper end: the samples are 16 times the values, and their top bits count.
    values = (-2048, -1000, 7, 2047) if signed else (0, 1000, 3000, 4095)
    image = np.full((16, 16), values[0] * 16, dtype=np.int64)
    image[0, :4] = np.array(values) * 16
    stream = imagecodecs.ljpeg_encode(image.astype("uint16"), bitspersample=16)
    dataset = packed(
        with_layout(image.astype("uint16"), 12, 15, signed), [stream], uid.JPEGLosslessSV1
    )
    levels = [(value - values[0]) * 255 / 4095 for value in values]
    assert shown(dataset, 4) == [pytest.approx(level, abs=0.51) for level in levels]
