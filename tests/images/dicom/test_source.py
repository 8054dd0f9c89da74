"""Files that are not quite DICOM files are read as what they parse as, which is said."""

from __future__ import annotations

import struct

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", "3.0", reason="DICOM is read through pydicom 3")

from pydicom import uid  # noqa: E402

from mrrag_llamaindex.images.dicom.source import is_dicom  # noqa: E402
from tests.images.dicom.making import dicom, error_of, noted, packed, row, saved  # noqa: E402

VALUES = row(819, 0, 2457, 4095)
LEVELS = [51, 0, 153, 255]


def parts(syntax: str) -> tuple[bytes, bytes, bytes]:
    """Preamble with prefix, meta group and data set of a file."""
    dataset = dicom(VALUES, bits=12)
    if syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = VALUES.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    data = saved(dataset)
    end = 144 + int.from_bytes(data[140:144], "little")
    return data[:132], data[132:end], data[end:]


@pytest.mark.parametrize("prefix", [False, True], ids=["bare", "with preamble"])
@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_a_data_set_without_meta_group(syntax: uid.UID, prefix: bool) -> None:
    preamble, _, body = parts(syntax)
    data = preamble + body if prefix else body
    assert is_dicom(data)
    levels, notes = noted(data)
    assert levels == LEVELS
    assert len(notes) == 1
    assert f"read as {syntax.name}" in notes[0]


def test_a_meta_group_without_preamble_says_how_to_read() -> None:
    _, meta, body = parts(uid.ExplicitVRBigEndian)
    assert noted(meta + body) == (LEVELS, [])


def test_a_meta_group_without_transfer_syntax() -> None:
    preamble, meta, body = parts(uid.ImplicitVRLittleEndian)
    place = meta.find(b"\2\0\x10\0UI")
    length = struct.unpack("<H", meta[place + 6 : place + 8])[0]
    shorter = meta[12:place] + meta[place + 8 + length :]
    group = meta[:8] + struct.pack("<I", len(shorter))
    levels, notes = noted(preamble + group + shorter + body)
    assert levels == LEVELS
    assert "Implicit VR Little Endian" in notes[0]


def test_compressed_pixels_without_transfer_syntax_are_refused() -> None:
    dataset = packed(dicom(VALUES), [b"\xff\xd8\xff\xd9"], uid.JPEGBaseline8Bit)
    data = saved(dataset)
    body = data[144 + int.from_bytes(data[140:144], "little") :]
    assert "no Transfer Syntax UID" in error_of(body)


def test_other_files_are_no_data_sets() -> None:
    assert not is_dicom(b"Heart size is normal." * 20)
    assert not is_dicom(bytes(500))
    assert not is_dicom(np.arange(2000, dtype=np.uint16).tobytes())
