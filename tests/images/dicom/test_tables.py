"""Lookup tables are as deep as what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", "3.0", reason="DICOM is read through pydicom 3")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from mrrag_llamaindex.images.load import load_image  # noqa: E402
from tests.images.dicom.making import dicom, error_of, noted, row, saved, table  # noqa: E402

RAMP = list(range(4096))


def as_bytes(entries: list[int], first: int, bits: int, kind: str = "<u2") -> Dataset:
    item = table(entries, first, bits)
    del item.LUTData
    item.add_new("LUTData", "OW", np.array(entries, dtype=kind).tobytes())
    return item


@pytest.mark.parametrize("bits", [8, 12, 14, 16])
def test_a_voi_table_is_as_deep_as_its_content(bits: int) -> None:
    dataset = dicom(row(819, 0, 2457, 4095), bits=12)
    dataset.VOILUTSequence = [as_bytes(RAMP, 0, bits)]
    levels, notes = noted(saved(dataset))
    assert levels == [51, 0, 153, 255]
    assert bool(notes) == (bits != 12)
    assert all(f"holds 12 bits, not {bits}" in note for note in notes)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_table_of_any_stated_depth(bits: int) -> None:
    dataset = dicom(row(819, 0, 2457, 4095), bits=12)
    dataset.ModalityLUTSequence = [as_bytes(RAMP, 0, bits)]
    assert noted(saved(dataset)) == ([51, 0, 153, 255], [])


def test_entries_of_8_bits_may_be_packed_two_in_a_word() -> None:
    dataset = dicom(row(100, 0, 200, 301))
    dataset.VOILUTSequence = [as_bytes([min(255, value) for value in range(302)], 0, 8, "u1")]
    assert noted(saved(dataset)) == ([100, 0, 200, 255], [])


def test_a_table_of_a_big_endian_file() -> None:
    values = row(819, 0, 2457, 4095)
    dataset = dicom(values, bits=12)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    dataset.PixelData = values.astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.VOILUTSequence = [as_bytes(RAMP, 0, 12, ">u2")]
    assert noted(saved(dataset)) == ([51, 0, 153, 255], [])


def test_a_first_input_that_was_written_as_unsigned_is_negative_for_negative_values() -> None:
    # 64512 = 65536 - 1024: the first of 2048 entries is that of -1024 HU.
    dataset = dicom(row(512, 0, 1024, 2047), RescaleSlope=1, RescaleIntercept=-1024)
    item = table([value // 8 for value in range(2048)], 0, 8)
    item.LUTDescriptor = [2048, 64512, 8]
    item["LUTDescriptor"].VR = "US"
    dataset.VOILUTSequence = [item]
    assert noted(saved(dataset)) == ([64, 0, 128, 255], [])


def test_65536_entries_are_written_as_0() -> None:
    dataset = dicom(row(13107, 0, 39321, 65535))
    item = as_bytes(list(range(65536)), 0, 16)
    item.LUTDescriptor = [0, 0, 16]
    dataset.VOILUTSequence = [item]
    assert noted(saved(dataset)) == ([51, 0, 153, 255], [])


def test_a_table_that_is_incomplete_is_named() -> None:
    dataset = dicom(row(0, 100))
    dataset.VOILUTSequence = [Dataset()]
    assert "LUT Descriptor (0028,3002)" in error_of(saved(dataset))
    dataset.VOILUTSequence = [table(RAMP, 0, 12)]
    del dataset.VOILUTSequence[0].LUTData
    assert "LUT Data (0028,3006)" in error_of(saved(dataset))
    dataset.VOILUTSequence = [as_bytes(RAMP[:50], 0, 12)]
    dataset.VOILUTSequence[0].LUTDescriptor = [60, 0, 12]
    assert "50 entries, fewer than the 60" in error_of(saved(dataset))


def palette(entries: int, bits: int, kind: str) -> Any:
    """Red is the index, green and blue 1 and 2 more, up to 255; the first row has 1, 0, 300."""
    dataset = dicom(row(1, 0, 300))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for step, name in enumerate(("Red", "Green", "Blue")):
        descriptor = f"{name}PaletteColorLookupTableDescriptor"
        setattr(dataset, descriptor, [entries, 0, bits])
        dataset[descriptor].VR = "US"
        values = np.minimum(np.arange(entries) + step, 255).astype(kind)
        setattr(dataset, f"{name}PaletteColorLookupTableData", values.tobytes())
    return dataset


@pytest.mark.parametrize(("bits", "kind"), [(8, "u1"), (8, "<u2"), (16, "<u2")])
def test_a_palette_is_as_deep_as_its_content_and_does_not_wrap(bits: int, kind: str) -> None:
    image = load_image(saved(palette(400, bits, kind)))
    colours = [image.getpixel((place, 0)) for place in range(3)]
    assert colours == [(1, 2, 3), (0, 1, 2), (255, 255, 255)]


def test_a_palette_without_one_of_its_colours_is_named() -> None:
    dataset = palette(400, 16, "<u2")
    del dataset.GreenPaletteColorLookupTableData
    assert "Green Palette Color Lookup Table Data (0028,1202)" in error_of(saved(dataset))
