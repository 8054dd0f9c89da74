"""DICOM headers as the standard allows them, as machines write them, and damaged.

What is right is computed here, from the elements as pydicom reads them, by the formulas of DICOM
PS3.3 and PS3.5 (bits, rescale, window, polarity), each written out once more.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import load_image
from tests.campaign.damage import damage
from tests.campaign.tally import Part, WrongValueError

_SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
)
_SECRET = "Miller^Anna"
_REQUIRED = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PhotometricInterpretation", "PixelData"),
)
"""Without these, nobody can know the pixels."""

_OPTIONAL = (
    *("SamplesPerPixel", "HighBit", "NumberOfFrames", "RescaleSlope", "RescaleIntercept"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue"),
)
_ODD = {
    "RescaleSlope": ("0", "1e400", "x", "-1", "1\\2", "NaN"),
    "RescaleIntercept": ("1e400", "-0", "", "inf"),
    "WindowWidth": ("0", "-5", "0.5", "1", "1e308", "1\\2\\3", "x", "NaN"),
    "WindowCenter": ("1e308", "\\", "x", "40\\400"),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "CUBIC", " linear ", ""),
    "PhotometricInterpretation": ("", "RGB", "monochrome2", "PALETTE COLOR", "XYZ"),
    "NumberOfFrames": ("0", "1", "2", "-1", "99999999", "x"),
}
_SHORTS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
           "SamplesPerPixel")  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a file and whether it must be read; some with one odd element, some with damage."""
    dataset = draw(_datasets())
    what = draw(st.sampled_from(("sound", "sound", "gone", "empty", "odd", "damaged", "damaged")))
    must_read = what == "sound"
    if what in ("gone", "empty"):
        name = draw(st.sampled_from((*_REQUIRED, *_OPTIONAL)))
        if name in dataset and what == "gone":
            del dataset[name]
        elif name in dataset:
            dataset[name].value = None if name != "PixelData" else b""
    elif what == "odd":
        name = draw(st.sampled_from((*_ODD, *_SHORTS)))
        if name in _SHORTS:
            setattr(dataset, name, draw(st.integers(0, 65535) | st.integers(0, 33)))
        else:
            dataset.add_new(name, _VR[name], "")
            dataset[name]._value = draw(st.sampled_from(_ODD[name]))
    data = _saved(dataset)
    if what == "damaged":
        data = draw(damage(data))
    return {"data": data, "must_read": must_read}


_VR = {"RescaleSlope": "DS", "RescaleIntercept": "DS", "WindowWidth": "DS", "WindowCenter": "DS",
       "VOILUTFunction": "CS", "PhotometricInterpretation": "CS",
       "NumberOfFrames": "IS"}  # fmt: skip


@st.composite
def _datasets(draw: st.DrawFn) -> Dataset:
    rows, columns = draw(st.integers(16, 24)), draw(st.integers(8, 12)) * 2
    allocated = draw(st.sampled_from((8, 16)))
    stored = draw(st.integers(1, allocated) if allocated == 16 else st.integers(2, 8))
    high = draw(st.integers(stored - 1, allocated - 1))
    pixels = np.random.default_rng(draw(st.integers(0, 2**32)))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = draw(st.sampled_from(_SYNTAXES))
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = _SECRET
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, high
    dataset.PixelRepresentation = draw(st.integers(0, 1))
    dataset.PhotometricInterpretation = draw(st.sampled_from(("MONOCHROME1", "MONOCHROME2")))
    if draw(st.booleans()):
        dataset.NumberOfFrames = 1
    if draw(st.booleans()):
        dataset.RescaleSlope = str(draw(st.sampled_from((1, 2, 0.5, -1, 1.25))))
        dataset.RescaleIntercept = str(draw(st.sampled_from((0, -1024, 7.5))))
    if draw(st.booleans()):
        dataset.WindowCenter = str(draw(st.integers(-2000, 40000)))
        dataset.WindowWidth = str(draw(st.integers(1, 60000)))
        if draw(st.booleans()):
            functions = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
            dataset.VOILUTFunction = draw(st.sampled_from(functions))
    samples = pixels.integers(0, 2**allocated, (rows, columns)).astype(f"<u{allocated // 8}")
    dataset.PixelData = samples.tobytes()
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return dataset


def _saved(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == uid.RLELossless:
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except Exception:  # a header that allows no compression
            dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def check(file: dict[str, Any], folder: Path) -> None:
    try:
        shown = load_image(file["data"], what="query image")
    except ImageError as error:
        if file["must_read"]:
            raise WrongValueError(f"a sound file is refused: {error}") from None
        if "Miller" in str(error):
            raise WrongValueError("an error names the patient") from None
        raise
    levels = np.asarray(shown)[..., 0].astype(float)
    known = _levels(file["data"])
    if known is None:
        if file["must_read"]:
            raise AssertionError("the oracle cannot read a sound file")
        return
    if levels.shape != known.shape or np.abs(levels - known).max() > 1:
        raise WrongValueError("other levels than the header gives")


def _levels(data: bytes) -> np.ndarray | None:
    """Grey levels by the standard; None where the header leaves no single answer."""
    try:
        dataset = dcmread(io.BytesIO(data), force=True)
        values = _stored(dataset)
        slope, intercept = (_number(dataset, f"Rescale{end}") for end in ("Slope", "Intercept"))
        values = values * (1 if slope is None else slope) + (intercept or 0)
        shown = _window(dataset, values)
    except Exception:
        return None
    if dataset.PhotometricInterpretation.strip().upper() == "MONOCHROME1":
        shown = 255 - shown
    return shown


def _stored(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import get_decoder

    width, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = dataset.get("HighBit")
    low = (bits - 1 if high is None else int(high)) + 1 - bits
    shape = int(dataset.Rows), int(dataset.Columns)
    syntax = dataset.file_meta.TransferSyntaxUID
    content = dataset.PixelData
    if syntax == uid.RLELossless:
        content = get_decoder(syntax).as_buffer(dataset, index=0, raw=True)[0]
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    values = np.frombuffer(content, f"{order}u{width // 8}", math.prod(shape)).astype(np.int64)
    values = (values >> low) & ((1 << bits) - 1)
    if int(dataset.PixelRepresentation):
        values = values - ((values >> (bits - 1)) << bits)
    return values.reshape(shape).astype(float)


def _number(dataset: Dataset, name: str) -> float | None:
    value = dataset.get(name)
    if hasattr(value, "__iter__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(value)


def _window(dataset: Dataset, values: np.ndarray) -> np.ndarray:
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        low, high = _shown_range(dataset, values)
        return np.clip((values - low) / ((high - low) or 1) * 255, 0, 255)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 255 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.clip(((values - centre) / width + 0.5) * 255, 0, 255)
    if width == 1:
        return np.where(values > centre - 0.5, 255.0, 0.0)
    return np.clip(((values - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)


def _shown_range(dataset: Dataset, values: np.ndarray) -> tuple[float, float]:
    if dataset.get("PixelPaddingValue") is not None:
        raise ValueError("padding is not computed here")
    return float(values.min()), float(values.max())


PART = Part("dicom", files(), check)
