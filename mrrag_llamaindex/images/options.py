"""What a file leaves to its reader: the window, and the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.checks import checked_frame
from mrrag_llamaindex.images.depth import Window, checked_window
from mrrag_llamaindex.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image

    from mrrag_llamaindex.images.load import ImageSource


@dataclass(frozen=True)
class ReadingOptions:
    """How the images of one run are read.

    Parameters
    ----------
    window : tuple of float, optional
        (low, high), as in `load_image`.
    frame : int, optional
        From 1, as in `load_image`.

    Raises
    ------
    ImageError
        If one of them is impossible.
    """

    window: Window | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", checked_window(self.window, "reading options"))
        checked_frame(self.frame, "reading options")

    @classmethod
    def parse(cls, window: str | None, frame: int | None) -> ReadingOptions:
        """Make them of ``--window low,high`` and ``--frame N``.

        Raises
        ------
        InputError
            If one of them is impossible. Names the option.
        """
        try:
            ends = None if window is None else tuple(float(end) for end in window.split(","))
        except ValueError:
            ends = ()
        try:
            checked = checked_window(ends, "--window")  # type: ignore[arg-type]
        except InputError:
            raise InputError(
                f"--window: {window!r} is not low,high: two numbers, the first below the second"
            ) from None
        return cls(checked, checked_frame(frame, "--frame"))

    @property
    def settings(self) -> dict[str, object]:
        """What differs from the defaults, as plain values: part of what identifies an image."""
        values = {"window": None if self.window is None else list(self.window), "frame": self.frame}
        return {name: value for name, value in values.items() if value is not None}

    def load(self, source: ImageSource, *, what: str = "image") -> Image.Image:
        """Read an image; see `load_image`."""
        return load_image(source, what=what, window=self.window, frame=self.frame)
