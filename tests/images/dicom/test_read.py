"""`read_dicom`: the picture that a viewer shows, or one line that names no patient."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.dicom.read import read_dicom
from mrrag_llamaindex.images.load import image_digest, load_image

pydicom = pytest.importorskip("pydicom", "3.0", reason="DICOM is read through pydicom 3")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402
from pydicom.pixels.decoders.base import get_decoder  # noqa: E402

from tests.images.dicom.making import SECRET, dicom, error_of, row, saved, shown, table  # noqa: E402

# Rescale and window ------------------------------------------------------------------------------


def test_without_a_window_the_range_of_the_values_is_shown() -> None:
    # 1000 -> 0, 4000 -> 255, 1600 -> 600 / 3000 * 255 = 51
    assert shown(dicom(row(1600, 1000, 4000), bits=12), 3) == [51, 0, 255]


def test_rescale_then_linear_window() -> None:
    # HU = stored - 1024: -160, -161, -60, 40, 239, 240. Window 40 / 400, PS3.3 C.11.2.1.2.1:
    # black up to 39.5 - 199.5 = -160, white above 239, between (x - 39.5) / 399 + .5.
    # -60: 100 / 399 * 255 = 63.9; 40: 200 / 399 * 255 = 127.8
    dataset = dicom(
        row(864, 863, 964, 1064, 1263, 1264),
        bits=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
    )
    assert shown(dataset, 6) == [0, 0, 64, 128, 255, 255]


def test_the_slope_is_applied_before_the_window() -> None:
    # 2 * 100 + 50 = 250 is the centre of a LINEAR_EXACT window 250 / 100: 200 -> 0, 300 -> 255
    dataset = dicom(
        row(100, 75, 125, 120),
        RescaleSlope=2,
        RescaleIntercept=50,
        WindowCenter=250,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    # 290: 90 / 100 * 255 = 229.5, rounded to even
    assert shown(dataset, 4) == [128, 0, 255, 230]


def test_sigmoid_window() -> None:
    dataset = dicom(
        row(2000, 1000, 3000, 0), WindowCenter=2000, WindowWidth=2000, VOILUTFunction="SIGMOID"
    )
    # 255 / (1 + exp(-4 (x - 2000) / 2000)): exp(2) = 7.389 -> 30.4, 224.6; exp(4) = 54.6 -> 4.6
    assert shown(dataset, 4) == [128, 30, 225, 5]


def test_of_several_windows_the_first_is_taken() -> None:
    # 1000 +- 500, ends exact
    dataset = dicom(
        row(1000, 500, 1500, 750),
        WindowCenter=[1000, 5],
        WindowWidth=[1000, 2],
        VOILUTFunction="LINEAR_EXACT",
    )
    assert shown(dataset, 4) == [128, 0, 255, 64]


def test_signed_values_and_an_empty_window_function() -> None:
    dataset = dicom(row(0, -1000, 1000, -500, dtype="int16"), WindowCenter=0.5, WindowWidth=2001)
    dataset.VOILUTFunction = None
    # LINEAR: (x - 0) / 2000 + .5
    assert shown(dataset, 4) == [128, 0, 255, 64]


def test_a_negative_slope_leaves_low_values_dark() -> None:
    # Values are -stored: -100 dark, 0 bright
    dataset = dicom(
        row(50, 0, 100),
        RescaleSlope=-1,
        RescaleIntercept=0,
        WindowCenter=-50,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert shown(dataset, 3) == [128, 255, 0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_modality_table_replaces_the_rescale(dtype: str) -> None:
    # Index from 10: 9 -> first entry 0, 11 -> 600, 12 and beyond -> 3000; 600 / 3000 * 255 = 51
    dataset = dicom(row(11, 9, 12, 200, dtype=dtype))
    dataset.ModalityLUTSequence = [table([0, 600, 3000], 10, 16)]
    assert shown(dataset, 4) == [51, 0, 255, 255]
    # From -10, which the unsigned type of the pixels cannot hold: 0 is entry 10
    dataset = dicom(row(0, 1, 2, dtype=dtype))
    dataset.ModalityLUTSequence = [table([0] * 10 + [600, 0, 3000], -10, 16)]
    assert shown(dataset, 3) == [51, 0, 255]


def test_a_voi_table_goes_before_a_window_and_after_the_rescale() -> None:
    dataset = dicom(
        row(101, 0, 102, 60000, 103),
        RescaleSlope=1,
        RescaleIntercept=-100,
        WindowCenter=1,
        WindowWidth=1,
    )
    # First input 1: 1 -> 0, 2 -> 1023 / 4, 3 and beyond -> 1023, of 10 bits
    dataset.VOILUTSequence = [table([0, 256, 1023], 1, 10)]
    assert shown(dataset, 5) == [0, 0, 64, 255, 255]


def test_values_past_16_bits_take_the_last_entry_of_a_voi_table() -> None:
    # 65535 + 2 - first input 1 = 65536, which is 0 in 16 bits
    dataset = dicom(row(0, 65535), RescaleSlope=1, RescaleIntercept=2)
    dataset.VOILUTSequence = [table([0, 256, 1023], 1, 10)]
    assert shown(dataset, 2) == [64, 255]


def test_a_voi_table_of_8_bits_and_more_than_256_entries_does_not_wrap() -> None:
    dataset = dicom(row(300, 100, 4095), bits=12)
    dataset.VOILUTSequence = [table([value // 16 for value in range(4096)], 0, 8)]
    assert shown(dataset, 3) == [18, 6, 255]  # with a wrapped index 300 would be 44 // 16 = 2


def test_padding_does_not_take_part_in_the_range() -> None:
    values = row(1600, 1000, 4000, 65535, 65530)
    assert shown(dicom(values), 3) == [2, 0, 12]  # of 1000..65535
    padded = dicom(values, PixelPaddingValue=65535, PixelPaddingRangeLimit=65530)
    assert shown(padded, 5) == [51, 0, 255, 255, 255]
    one = dicom(row(1600, 1000, 4000, 0), PixelPaddingValue=0)
    assert shown(one, 4) == [51, 0, 255, 0]
    assert shown(dicom(row(7), PixelPaddingValue=7), 1) == [0]


def test_rescale_and_window_of_an_enhanced_object_stand_in_its_functional_groups() -> None:
    dataset = dicom(row(1124, 1024, 1224))
    rescale, window, shared, frame = Dataset(), Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 100, 400, "LINEAR_EXACT"
    shared.PixelValueTransformationSequence = [rescale]
    frame.FrameVOILUTSequence = [window]
    dataset.NumberOfFrames = 1
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [frame]
    # 100 +- 200 in rescaled units: 0 -> 1/4, 200 -> 3/4
    assert shown(dataset, 3) == [128, 64, 191]
    assert shown(dataset, 3, window=(0, 100)) == [255, 0, 255]


def test_a_window_of_the_caller_counts_in_rescaled_units_and_replaces_that_of_the_file() -> None:
    dataset = dicom(
        row(1024, 774, 1174, 0),
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=5000,
        WindowWidth=10,
    )
    # -250..150: 250 / 400 * 255 = 159.4
    assert shown(dataset, 4, window=(-250, 150)) == [159, 0, 255, 0]


# Polarity and colour -----------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, (1000, 2000)], ids=["own", "given"])
def test_monochrome1_is_the_inversion_of_monochrome2(window: tuple[float, float] | None) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (20, 30), dtype=np.uint16)
    tags = {"WindowCenter": 2000, "WindowWidth": 3000}
    light, dark = (
        np.asarray(load_image(saved(dicom(values, kind, 12, **tags)), window=window))
        for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    assert len(np.unique(light)) > 100
    assert np.array_equal(dark, 255 - light)


def test_a_shape_that_repeats_the_polarity_does_not_invert_twice() -> None:
    # PS3.3 C.8.11.3: MONOCHROME1 comes with INVERSE
    dataset = dicom(row(0, 100), "MONOCHROME1", PresentationLUTShape="INVERSE")
    assert shown(dataset, 2) == [255, 0]


def colours() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_rgb_stays_as_it_is_and_takes_a_window() -> None:
    data = saved(dicom(colours(), "RGB"))
    assert np.array_equal(np.asarray(load_image(data)), colours())
    # 51..102: 68 -> 17 / 51 * 255 = 85
    flat = np.tile(np.array([40, 68, 110], dtype=np.uint8), (16, 16, 1))
    image = load_image(saved(dicom(flat, "RGB")), window=(51, 102))
    assert image.getpixel((5, 5)) == (0, 85, 255)


def test_rgb_of_16_bits_is_scaled_by_the_bits_stored() -> None:
    flat = np.tile(np.array([0, 819, 4095], dtype=np.uint16), (16, 16, 1))
    # 819 / 4095 * 255 = 51
    assert load_image(saved(dicom(flat, "RGB", 12))).getpixel((5, 5)) == (0, 51, 255)


def test_ybr_becomes_rgb() -> None:
    # JFIF: pure red is Y 76, Cb 85, Cr 255
    flat = np.tile(np.array([76, 85, 255], dtype=np.uint8), (16, 16, 1))
    red = load_image(saved(dicom(flat, "YBR_FULL"))).getpixel((5, 5))
    assert np.abs(np.subtract(red, (254, 0, 0))).max() <= 1


def test_a_palette_becomes_rgb() -> None:
    dataset = dicom(row(1, 0, 2, dtype="uint8"))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, entries in {"Red": [9, 200, 0], "Green": [8, 100, 0], "Blue": [7, 50, 255]}.items():
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        dataset[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        words = np.array(entries, dtype="<u2") * 257
        setattr(dataset, f"{name}PaletteColorLookupTableData", words.tobytes())
    image = load_image(saved(dataset))
    assert [image.getpixel((x, 0)) for x in range(3)] == [(200, 100, 50), (9, 8, 7), (0, 0, 255)]


def test_a_colour_space_that_cannot_be_converted_is_refused() -> None:
    dataset = dicom(colours(), "RGB")
    dataset.PhotometricInterpretation = "HSV"
    assert "cannot be converted to RGB" in error_of(saved(dataset))


# Files -------------------------------------------------------------------------------------------


def test_path_and_bytes_agree_and_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    data = saved(dicom(row(1600, 1000, 4000)))
    path = tmp_path / "a"
    path.write_bytes(data)
    ours = [np.asarray(load_image(source)) for source in (data, path, str(path), bytearray(data))]
    assert all(np.array_equal(image, ours[0]) for image in ours)
    assert image_digest(path) == image_digest(data)


def test_size_is_columns_by_rows_and_the_picture_is_not_turned() -> None:
    values = np.zeros((20, 40), dtype=np.uint8)
    values[:5, 30:] = 255
    image = load_image(saved(dicom(values)))
    assert image.size == (40, 20)
    assert image.getpixel((39, 0)) == (255, 255, 255)
    assert image.getpixel((0, 19)) == (0, 0, 0)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_other_uncompressed_encodings_give_the_same_pixels(syntax: Any) -> None:
    values = row(1600, 1000, 4000, 2000)
    dataset = dicom(values, WindowCenter=2000, WindowWidth=3000)
    expected = shown(dataset, 4)
    if syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = values.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    assert shown(dataset, 4) == expected


def test_rle_is_lossless() -> None:
    values = np.random.default_rng(2).integers(0, 4096, (40, 30), dtype=np.uint16)
    plain = dicom(values, bits=12)
    expected = np.asarray(load_image(saved(plain)))
    plain.compress(uid.RLELossless, generate_instance_uid=False)
    assert np.array_equal(np.asarray(load_image(saved(plain))), expected)


def jpeg(cut: int = 0) -> Any:
    stream = io.BytesIO()
    picture = Image.fromarray(colours()).resize((60, 40), Image.Resampling.BICUBIC)
    picture.save(stream, "JPEG", quality=95)
    dataset = dicom(np.asarray(picture), "RGB")
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    frame = stream.getvalue()
    dataset.PixelData = encapsulate([frame[: len(frame) - cut]])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_jpeg_is_decoded_into_rgb() -> None:
    ours = np.asarray(load_image(saved(jpeg()))).astype(int)
    frame = next(generate_frames(jpeg().PixelData, number_of_frames=1))
    theirs = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")).astype(int)
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_cut_jpeg_is_refused_even_if_the_application_tells_pillow_to_accept_it(
    tolerant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    assert load_image(saved(jpeg())).size == (60, 40)
    assert "incomplete" in error_of(saved(jpeg(cut=1000)))


# What is refused ---------------------------------------------------------------------------------


def test_a_cut_file_is_refused_wherever_it_is_cut() -> None:
    whole = dicom(np.random.default_rng(3).integers(0, 4096, (64, 64), dtype=np.uint16))
    packed = dicom(np.random.default_rng(3).integers(0, 4096, (64, 64), dtype=np.uint16))
    packed.compress(uid.RLELossless)
    for dataset in (whole, packed):
        data = saved(dataset)
        for length in [132, 140, 200, 300, *range(400, len(data) - 20, 701)]:
            assert "DICOM" in (text := error_of(data[:length])) or "incomplete" in text
    with pytest.raises(ImageError, match=r"^query image: .*incomplete"):
        read_dicom(saved(whole)[:-4000], what="query image")


def test_several_frames_are_refused_with_their_number_before_decoding() -> None:
    dataset = dicom(np.zeros((5, 16, 16), dtype=np.uint8))
    assert "5 frames; choose one" in error_of(saved(dataset))
    dataset.PixelData = b""
    assert "5 frames" in error_of(saved(dataset))


def test_frames_that_the_header_does_not_count_are_refused_too() -> None:
    dataset = dicom(np.zeros((16, 16, 16), dtype=np.uint8))
    dataset.NumberOfFrames = 1
    assert "16 frames" in error_of(saved(dataset))


def test_a_file_without_an_image_is_refused() -> None:
    report = dicom(row(1))
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.SOPClassUID = uid.BasicTextSRStorage
    assert "holds no image" in error_of(saved(report))
    empty = dicom(row(1))
    del empty.PixelData
    assert "no pixel data" in error_of(saved(empty))


def test_a_compression_without_a_decoder_is_named() -> None:
    dataset = jpeg()
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    if get_decoder(uid.JPEGLosslessSV1).is_available:
        pytest.skip("a decoder for lossless JPEG is installed")
    text = error_of(saved(dataset))
    assert "JPEG Lossless" in text
    assert "pylibjpeg" in text


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        (uid.UID("1.2.3.4711"), "not one of an image"),
        (uid.MPEG2MPML, "not one of an image"),
    ],
)
def test_an_encoding_that_is_not_read_is_refused(syntax: Any, reason: str) -> None:
    dataset = dicom(row(1))
    dataset.file_meta.TransferSyntaxUID = syntax
    del dataset.PixelData  # pydicom would not write it unpacked
    assert reason in error_of(saved(dataset, implicit_vr=False, little_endian=True))


def test_size_limits_hold_and_are_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    small = dicom(np.zeros((10, 500), dtype=np.uint8))
    small.PixelData = b""
    assert "500 x 10 pixels is too small" in error_of(saved(small))
    monkeypatch.setattr(defaults, "MAX_IMAGE_PIXELS", 1000)
    large = dicom(np.zeros((40, 30), dtype=np.uint8))
    large.PixelData = b""
    assert "limit 1,000" in error_of(saved(large))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "MILLER"},
        {"WindowCenter": float("nan"), "WindowWidth": 400},
    ],
    ids=["function", "nan"],
)
def test_a_window_that_cannot_be_applied_is_an_error_with_a_way_on(tags: dict[str, Any]) -> None:
    dataset = dicom(row(100, 0, 200), **tags)
    text = error_of(saved(dataset))
    assert "window=(low, high)" in text
    assert "MILLER" not in text
    assert shown(dataset, 3, window=(0, 300)) == [85, 0, 170]


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(dicom(row(1)))
    for name in ("pydicom", "pydicom.pixels"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 'pip install "mrrag-llamaindex[dicom]"' in error_of(data)


# Privacy -----------------------------------------------------------------------------------------


def disguised() -> bytes:
    """Invalid values, a name where a code should be, wherever pydicom complains of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dicom(row(1, 2))
        dataset.add_new("SpecificCharacterSet", "CS", SECRET)
        dataset.add_new("PatientBirthDate", "DA", SECRET)
        dataset.add_new("VOILUTFunction", "CS", SECRET)
        dataset.PixelData += b"0000"
        return saved(dataset)


def test_nothing_is_warned_of_or_logged(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, tmp_path: Path
) -> None:
    data = disguised()
    path = tmp_path / "Miller^Anna.dcm"
    path.write_bytes(data)
    with caplog.at_level(logging.DEBUG):
        np.asarray(pydicom.dcmread(path).pixel_array)
        assert "pydicom" in {record.name for record in caplog.records}  # it would have
        assert len(recwarn) > 0
        caplog.clear()
        recwarn.clear()
        load_image(path)
        error_of(saved(jpeg(cut=1000)))
    assert not caplog.records
    assert not recwarn.list


def test_warnings_and_logs_are_as_before_afterwards_from_threads_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = disguised()
    before = list(warnings.filters)
    threads = [threading.Thread(target=load_image, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
    assert not [name for name in ("pydicom",) if logging.getLogger(name).filters]
    with caplog.at_level(logging.WARNING):
        logging.getLogger("pydicom").warning("heard")
    assert "heard" in caplog.text


def test_the_patient_is_not_read_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    read = pydicom.dcmread

    def noted(*args: Any, **options: Any) -> Any:
        dataset = read(*args, **options)
        seen.update(element.keyword for element in dataset)
        return dataset

    monkeypatch.setattr(pydicom, "dcmread", noted)
    load_image(saved(dicom(row(1, 2))))
    assert "Rows" in seen
    assert not {name for name in seen if name.startswith("Patient")}
