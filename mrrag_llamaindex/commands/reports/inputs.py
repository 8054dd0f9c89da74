"""The images of a study that a command asks about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.images.options import ReadingOptions

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage


def read_study(images: Sequence[Path], window: str | None, frame: int | None) -> QueryImage:
    """Read and decode the images of ``--image``, before anything slow is loaded.

    Raises
    ------
    ImageError
        If one cannot be read.
    """
    from mrrag_llamaindex.images.query_image import QueryImage

    reading = ReadingOptions.parse(window, frame)
    views = [QueryImage.read(one, reading, what=f"--image {one}") for one in images]
    study = QueryImage.study(views)
    study.pictures  # noqa: B018 (decoded now)
    return study
