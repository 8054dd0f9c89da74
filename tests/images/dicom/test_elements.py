"""Elements that are missing, empty or alone have their defaults, or are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", "3.0", reason="DICOM is read through pydicom 3")

from tests.images.dicom.making import dicom, error_of, noted, row, saved, shown  # noqa: E402

REQUIRED = {
    "PhotometricInterpretation": "(0028,0004)",
    "BitsAllocated": "(0028,0100)",
    "BitsStored": "(0028,0101)",
    "PixelRepresentation": "(0028,0103)",
}


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize(("name", "tag"), REQUIRED.items())
def test_a_required_element_is_named(name: str, tag: str, empty: bool) -> None:
    dataset = dicom(row(0, 100))
    setattr(dataset, name, None)
    if not empty:
        delattr(dataset, name)
    assert f"{tag} of this DICOM file is missing or empty" in error_of(saved(dataset))


def test_the_order_of_colours_is_required() -> None:
    dataset = dicom(np.zeros((16, 16, 3), dtype=np.uint8), "RGB")
    del dataset.PlanarConfiguration
    assert "Planar Configuration (0028,0006)" in error_of(saved(dataset))


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("name", ["HighBit", "SamplesPerPixel", "NumberOfFrames"])
def test_what_follows_from_others_may_be_missing(name: str, empty: bool) -> None:
    dataset = dicom(row(0, 819, 4095), bits=12)
    setattr(dataset, name, None)
    if not empty:
        delattr(dataset, name)
    assert noted(saved(dataset)) == ([0, 51, 255, 0], [])


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"BitsAllocated": 12}, "Bits Allocated"),
        ({"BitsStored": 17}, "Bits Stored"),
        ({"HighBit": 16}, "High Bit"),
        ({"HighBit": 3}, "High Bit"),
        ({"PixelRepresentation": 2}, "Pixel Representation"),
        ({"SamplesPerPixel": 3}, "Samples per Pixel"),
        ({"RescaleSlope": 0}, "Rescale Slope"),
        ({"RescaleSlope": float("nan")}, "Rescale Slope"),
        ({"PixelPresentation": "COLOR"}, "Pixel Presentation"),
    ],
)
def test_an_impossible_element_is_named(tags: dict[str, Any], name: str) -> None:
    assert name in error_of(saved(dicom(row(0, 100), **tags)))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # The window is 0..200 of rescaled values.
        ({"RescaleSlope": None, "RescaleIntercept": None}, [0, 64, 128, 255]),
        ({"RescaleSlope": 1, "RescaleIntercept": None}, [0, 64, 128, 255]),
        ({"RescaleSlope": 2}, [0, 128, 255, 255]),
        ({"RescaleIntercept": -50}, [0, 0, 64, 191]),
        ({"RescaleSlope": None, "RescaleIntercept": 50}, [64, 128, 191, 255]),
    ],
)
def test_a_lone_slope_or_intercept_counts(tags: dict[str, Any], expected: list[int]) -> None:
    window = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    assert shown(dicom(row(0, 50, 100, 200), **window, **tags), 4) == expected


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "Window Width (0028,1051) is 0"),
        ({"WindowCenter": 5, "WindowWidth": -3}, "is -3"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "is 0.5"),
        (
            {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
            "Window Width (0028,1051) is 0",
        ),
        ({"WindowCenter": 5}, "Window Width (0028,1051) is missing or empty"),
        ({"WindowCenter": None, "WindowWidth": 5}, "Window Center (0028,1050) is missing"),
    ],
)
def test_half_a_window_or_none_shows_the_full_range_and_says_so(
    tags: dict[str, Any], note: str
) -> None:
    levels, notes = noted(saved(dicom(row(100, 0, 500), **tags)))
    assert levels == [51, 0, 255, 51]
    assert len(notes) == 1
    assert note in notes[0]
    assert "full range" in notes[0]


def test_a_window_of_width_1_is_a_threshold() -> None:
    # LINEAR, C.11.2.1.2.1: white above 100 - .5
    dataset = dicom(row(99, 100, 101), WindowCenter=100, WindowWidth=1)
    assert shown(dataset, 3) == [0, 255, 255]


def test_an_empty_window_is_none_and_is_not_noted() -> None:
    dataset = dicom(row(100, 0, 500), WindowCenter=None, WindowWidth=None)
    assert noted(saved(dataset)) == ([51, 0, 255, 51], [])


@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63536)])
def test_padding_is_found_whichever_sign_its_element_has(vr: str, value: int) -> None:
    # 65536 - 63536 = 2000
    dataset = dicom(row(100, 0, 500, -2000, dtype="int16"))
    dataset.add_new("PixelPaddingValue", vr, value)
    assert shown(dataset, 4) == [51, 0, 255, 0]


def test_fewer_pixels_than_the_header_asks_for_are_named_with_both_numbers() -> None:
    dataset = dicom(row(0, 100))
    dataset.Rows = 17
    # 16 x 16 x 2 = 512 bytes, 17 x 16 x 2 = 544
    assert "holds 512 bytes, and its header asks for 544" in error_of(saved(dataset))


@pytest.mark.parametrize("name", ["VOILUTSequence", "PerFrameFunctionalGroupsSequence"])
def test_what_should_be_a_sequence_and_is_none_is_named(name: str) -> None:
    dataset = dicom(row(0, 100))
    setattr(dataset, name, [])
    assert shown(dataset, 2) == [0, 255]
    dataset[name].VR = "LO"
    dataset[name].value = "text"
    assert "is not a sequence" in error_of(saved(dataset))
