"""What a viewer gets: windowed as it says, it is the image that the model reads."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.images.depth import to_uint8
from mrrag_llamaindex.images.film import Film
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.images.query_image import QueryImage
from tests.images.dicom.making import dicom, saved
from tests.images.making import encoded

DEEP = (np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64)


def deep_png(values=DEEP):
    return encoded(Image.fromarray(values))


def deep_tiff(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


def ct(**elements):
    pytest.importorskip("pydicom")
    return saved(dicom(DEEP.astype("int16") // 16, **elements))


def shown(film):
    """What the viewer draws of it."""
    low, high = film.window
    levels = to_uint8(film.slope * film.samples.astype(float) + film.intercept, low, high)
    return 255 - levels if film.low_is_white else levels


FILES = {
    "PNG of 16 bits": deep_png,
    "TIFF of floats": lambda: deep_tiff(DEEP.astype("float32") / 7 - 100),
    "TIFF of 32 bits": lambda: deep_tiff(DEEP.astype("int32") * 1000),
    "one value": lambda: deep_png(np.full((48, 64), 900, np.uint16)),
    "DICOM": ct,
    "DICOM in HU": lambda: ct(
        RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400, Modality="CT"
    ),
    "DICOM, exact window": lambda: ct(
        WindowCenter=900, WindowWidth=300, VOILUTFunction="LINEAR_EXACT"
    ),
    "MONOCHROME1": lambda: ct(
        PhotometricInterpretation="MONOCHROME1", WindowCenter=900, WindowWidth=300
    ),
    "padding": lambda: ct(PixelPaddingValue=0),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_through_its_window_a_film_is_what_the_model_reads(make):
    image = QueryImage.read(make())
    film = Film.of(image)
    assert film.samples.dtype == np.uint16
    read = np.asarray(image.rgb)[..., 0].astype(int)
    if film.samples.min() == film.samples.max():
        return
    assert np.abs(shown(film).astype(int) - read).max() <= 1
    assert film.linear


def test_a_window_that_was_asked_for_is_the_one_shown_first():
    film = Film.of(QueryImage.read(deep_png(), ReadingOptions(window=(100, 900))))
    assert film.window == (100, 900)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_a_window_on_8_bits_is_not_applied_twice(kind):
    row = np.arange(64, dtype=np.uint8) * 4
    picture = Image.fromarray(np.tile(row, (48, 1)))
    data = encoded(picture if kind == "grey" else picture.convert("RGB"))
    image = QueryImage.read(data, ReadingOptions(window=(60, 160)))
    film = Film.of(image)
    assert film.samples.max() == 252
    read = np.asarray(image.rgb).astype(int)
    assert np.abs(shown(film).astype(int) - read).max() <= 1


def test_a_curve_is_no_window():
    film = Film.of(QueryImage.read(ct(WindowCenter=9, WindowWidth=3, VOILUTFunction="SIGMOID")))
    assert not film.linear
    assert film.window == film.presets["full"]


def test_eight_bits_are_given_in_colour():
    film = Film.of(QueryImage.read(encoded(Image.new("RGB", (64, 48), (1, 2, 3)))))
    assert film.samples.shape == (48, 64, 3)
    assert film.samples.dtype == np.uint8
    assert film.window == (0, 255)


def test_hounsfield_units_have_the_usual_windows():
    film = Film.of(QueryImage.read(FILES["DICOM in HU"]()))
    assert film.unit == "HU"
    assert film.presets["mediastinum"] == (-160, 240)
    assert Film.of(QueryImage.read(FILES["DICOM"]())).unit == ""


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_every_preset_is_a_window(make):
    for low, high in Film.of(QueryImage.read(make())).presets.values():
        assert low < high
