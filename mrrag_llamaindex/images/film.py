"""A film for a viewer: samples at the depth of the file, and the values that they stand for.

What reads images maps them to 8 bits, through one window. A person who moves the window needs what
was mapped: 16 bits of grey where the file has them, 8 bits of colour otherwise.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mrrag_llamaindex.images.deep import deep_jpeg2000, deep_png, deep_pnm
from mrrag_llamaindex.images.depth import Window, bands, value_range
from mrrag_llamaindex.images.dicom.read import read_grey
from mrrag_llamaindex.images.dicom.source import is_dicom
from mrrag_llamaindex.images.formats import PILLOW_FORMATS
from mrrag_llamaindex.images.query_image import QueryImage

_WHAT = "query image"
_LEVELS = 2**16 - 1
_PERCENTILES = (1, 40, 60, 95, 99.5)


@dataclass(frozen=True, eq=False)
class Film:
    """Samples of one image, for a viewer.

    Attributes
    ----------
    samples : numpy.ndarray
        uint16 (height, width), or uint8 (height, width, 3) for an image of 8 bits.
    slope, intercept : float
        A sample stands for the value ``slope * sample + intercept``.
    window : tuple of float
        (low, high) in values: what the model reads is mapped through it.
    linear : bool
        Whether that is all that it is mapped through; False where a DICOM file has a table or a
        curve, and the window is the range of the values.
    low_is_white : bool
    unit : str
        ``"HU"`` for Hounsfield units, else empty.
    """

    samples: npt.NDArray[np.uint16] | npt.NDArray[np.uint8]
    slope: float = 1.0
    intercept: float = 0.0
    window: Window = (0.0, 255.0)
    linear: bool = True
    low_is_white: bool = False
    unit: str = ""

    @classmethod
    def of(cls, image: QueryImage) -> Film:
        """Take the samples of an image that has been read.

        Raises
        ------
        ImageError
            If it cannot be read, see `QueryImage.rgb`.
        """
        shown = image.rgb  # refuses what is damaged, or larger than can be read
        film, given = _deep(image), image.options.window
        if film is None:
            if given is not None and not isinstance(image.content, Image.Image):
                shown = replace(image.options, window=None).load(image.content, what=_WHAT)
            film = cls(np.asarray(shown))
        return film if given is None else replace(film, window=given, linear=True)

    @property
    def presets(self) -> dict[str, Window]:
        """Windows by name, in values: of Hounsfield units the usual ones, else by percentiles.

        ``read`` is the window that the model's image was made with; ``full`` the range of values;
        ``lung`` opens the dark part, ``bone`` the bright one, ``mediastinum`` what lies between.
        """
        low, high = self._value(int(self.samples.min())), self._value(int(self.samples.max()))
        named: dict[str, Window] = {"read": self.window, "full": (low, max(high, low + 1))}
        if self.unit == "HU":
            return {
                **named,
                "lung": (-1350.0, 150.0),
                "mediastinum": (-160.0, 240.0),
                "bone": (-500.0, 1300.0),
            }
        values = [self._value(float(p)) for p in np.percentile(self.samples, _PERCENTILES)]
        dark, lower, upper, bright, top = values[::-1] if self.low_is_white else values
        parts = {"lung": (dark, upper), "mediastinum": (lower, bright), "bone": (upper, top)}
        ordered = {name: (min(ends), max(ends)) for name, ends in parts.items()}
        return {**named, **{name: w for name, w in ordered.items() if w[1] > w[0]}}

    def _value(self, sample: float) -> float:
        return self.slope * sample + self.intercept


def _deep(image: QueryImage) -> Film | None:
    """Return the film of an image with more than 8 bits of grey."""
    data = image.content
    if isinstance(data, Image.Image):
        return None
    if is_dicom(data):
        grey = read_grey(data, what=_WHAT, frame=image.options.frame)
        if grey is None:
            return None
        film = _film(grey.values, grey.window, low_is_white=grey.low_is_white)
        unit = "HU" if grey.hounsfield else ""
        return replace(film, linear=grey.window is not None, unit=unit)
    file = deep_png(data, _WHAT) if data[:8] == b"\x89PNG\r\n\x1a\n" else None
    file = file or deep_pnm(data, _WHAT) or deep_jpeg2000(data, _WHAT)
    if file is not None:
        plain = file.colours == 1 and file.alpha == "none" and file.orientation == 1
        samples = file.decode().reshape(file.height, file.width, -1)
        return _film(samples[..., 0]) if plain else None
    try:
        opened = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except OSError:  # a TIFF whose samples Pillow does not hold: shown as the model reads it
        return None
    with opened:
        if not (opened.mode in ("I", "F") or opened.mode.startswith("I;16")):
            return None
        if image.options.frame:
            opened.seek(image.options.frame - 1)
        white = getattr(opened, "tag_v2", {}).get(262) == 0  # PhotometricInterpretation
        return _film(np.asarray(ImageOps.exif_transpose(opened)), low_is_white=white)


def _film(
    values: npt.NDArray[Any], window: Window | None = None, *, low_is_white: bool = False
) -> Film:
    """Lay values of any depth over 16 bits: whole numbers as they are where they fit."""
    low, high = value_range(bands(values), _WHAT)
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.round(values)))
    slope = 1.0 if whole and high - low <= _LEVELS else (high - low) / _LEVELS
    samples = np.round((values.astype(np.float64) - low) / slope).astype(np.uint16)
    shown = window or (low, high)
    if not shown[0] < shown[1]:
        shown = (shown[0] - 0.5, shown[0] + 0.5)
    return Film(samples, slope, low, shown, low_is_white=low_is_white)
