"""One page of thumbnails, so that a wrong window is seen before anything is indexed."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image, ImageDraw

from mrrag_llamaindex.files.atomic import write_atomically

SIDE = 160
"""Pixels of the longer side of a thumbnail."""

MAX_THUMBNAILS = 96
_LABEL = 14
_GAP = 6
_LETTERS = 25


class ContactSheet:
    """Collects thumbnails of any number of images, of many every nth.

    At most `MAX_THUMBNAILS` are held and shown; when there are more, every second one is given up
    and half as many are taken from then on, so that the page covers the whole table evenly.
    """

    def __init__(self) -> None:
        self._thumbnails: list[tuple[str, Image.Image]] = []
        self._step = 1
        self.images = 0

    def __len__(self) -> int:
        """Return the number of thumbnails on the page."""
        return len(self._thumbnails)

    def add(self, label: str, image: Image.Image) -> None:
        """Add an image, mode RGB, as it was read.

        Parameters
        ----------
        label : str
            Shown below it, cut to one line.
        image : PIL.Image.Image
            Not changed.
        """
        place, self.images = self.images, self.images + 1
        if place % self._step:
            return
        if len(self._thumbnails) == MAX_THUMBNAILS:
            self._thumbnails = self._thumbnails[::2]
            self._step *= 2
            if place % self._step:
                return
        copy = image.copy()
        copy.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        self._thumbnails.append((label, copy))

    def page(self) -> Image.Image:
        """Return the page, mode RGB, in rows from left to right in the order of the images."""
        columns = max(1, min(12, math.ceil(math.sqrt(len(self._thumbnails)))))
        rows = max(1, math.ceil(len(self._thumbnails) / columns))
        cell = SIDE + _GAP
        size = (columns * cell + _GAP, rows * (cell + _LABEL) + _GAP)
        page = Image.new("RGB", size, (40, 40, 60))
        draw = ImageDraw.Draw(page)
        for place, (label, thumbnail) in enumerate(self._thumbnails):
            left = _GAP + place % columns * cell
            top = _GAP + place // columns * (cell + _LABEL)
            offset = ((SIDE - thumbnail.width) // 2, (SIDE - thumbnail.height) // 2)
            page.paste(thumbnail, (left + offset[0], top + offset[1]))
            text = label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}~"
            draw.text((left, top + SIDE + 1), _drawable(text), fill=(230, 230, 230))
        return page

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page as a PNG that only its owner may read: it shows patients.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        page = self.page()

        def write(part: Path) -> None:
            part.touch(mode=0o600)
            page.save(part, "PNG")

        write_atomically(path, write, private=True)


def _drawable(text: str) -> str:
    """Return the text in letters that Pillow's own font has."""
    return (
        "".join(letter if letter.isprintable() else "?" for letter in text)
        .encode("latin-1", "replace")
        .decode("latin-1")
    )
