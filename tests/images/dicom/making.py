"""DICOM files of stated stored values, and what is shown of them."""

from __future__ import annotations

import io
import traceback
import warnings
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import set_pixel_data

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.checks import ImageWarning
from mrrag_llamaindex.images.load import load_image

SECRET = "Miller^Anna"


def dicom(
    values: np.ndarray, kind: str = "MONOCHROME2", bits: int | None = None, **tags: Any
) -> Any:
    """A secondary capture of these stored values, of a patient whose name must never be seen."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uid.generate_uid()
    dataset.PatientName = SECRET
    dataset.PatientID = "MRN-4711"
    set_pixel_data(dataset, values, kind, bits or values.dtype.itemsize * 8)
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def saved(dataset: Any, **encoding: bool) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True, **encoding)
    return stream.getvalue()


def row(*values: int, dtype: str = "uint16") -> np.ndarray:
    """Stored values of the first row of a 16 x 16 image, the first of them everywhere else."""
    image = np.full((16, 16), values[0], dtype=dtype)
    image[0, : len(values)] = values
    return image


def shown(dataset: Any, count: int, **options: Any) -> list[int]:
    """Grey levels at the start of the first row."""
    image = load_image(saved(dataset), **options)
    assert image.mode == "RGB"
    levels = np.asarray(image)
    assert (levels == levels[..., :1]).all()
    return levels[0, :count, 0].tolist()


def error_of(data: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(data, what="query image", **options)
    text = "".join(traceback.format_exception(caught.value))
    assert "Miller" not in text
    assert "4711" not in text
    message = str(caught.value)
    assert message.startswith("query image: ")
    assert "\n" not in message
    return message


def table(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item["LUTData"].VR = "US"
    return item


def packed(dataset: Dataset, frames: list[bytes], syntax: Any) -> Dataset:
    """The data set with its pixels replaced by compressed frames."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def noted(data: Any, **options: Any) -> tuple[list[int], list[str]]:
    """Four grey levels at the start of the first row, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = load_image(data, what="query image", **options)
    notes = [str(item.message) for item in caught if item.category is ImageWarning]
    assert all("Miller" not in note and note.startswith("query image: ") for note in notes)
    return np.asarray(image)[0, :4, 0].tolist(), notes
