"""The images of a table: which column names them, where they lie, and whether they can be read."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from mrrag_llamaindex.doctor.start.columns import named, share_of_images
from mrrag_llamaindex.doctor.start.sample import TableSample
from mrrag_llamaindex.errors import ImageError, InputError
from mrrag_llamaindex.files.tables.named_files import FileFinder
from mrrag_llamaindex.images.dicom.source import is_dicom
from mrrag_llamaindex.images.formats import PILLOW_FORMATS, foreign_format
from mrrag_llamaindex.images.load import load_image, read_bytes

OPENED: Final = 100
"""Images that are decoded, evenly spread over the table: seconds, where all may take hours. That
the others exist is looked up for each of them."""

_TRIED = 50
_WHAT = "image"


@dataclass(frozen=True)
class ImagePlace:
    """Where the images of a table lie.

    Attributes
    ----------
    column : str
    folder : Path or None
        Of relative paths; None for the table's own.
    found, tried : int
        How many of the first rows name a file that is there.
    """

    column: str
    folder: Path | None
    found: int
    tried: int


@dataclass(frozen=True)
class ImageSurvey:
    """What is known of a table's images.

    Attributes
    ----------
    named : int
        Distinct files that the table names.
    missing : int
        Those of them that do not exist.
    opened, readable : int
        Files that were decoded to the last pixel, and those of them that could be.
    formats : dict of str to int
        Of the files that were opened.
    unreadable : dict of str to int
        Reasons, the most frequent first. They name no file.
    example : str or None
        The first that can be read.
    """

    named: int
    missing: int
    opened: int
    readable: int
    formats: dict[str, int]
    unreadable: dict[str, int]
    example: str | None

    @property
    def dicom(self) -> int:
        """How many of the opened files are DICOM, which needs the extra of that name."""
        return self.formats.get("DICOM", 0)


def find_images(sample: TableSample, images: Path | None, column: str | None) -> ImagePlace | None:
    """Return the column of images and their folder; None if no column looks like one.

    Parameters
    ----------
    sample : TableSample
    images : Path or None
        The folder, where it is known; else the table's own and those in it are tried.
    column : str or None
        The column, where it is known.
    """
    columns = [column] if column else _like_images(sample)
    folders = [images] if images else [None, *_folders(sample.path.parent)]
    best: ImagePlace | None = None
    for name in columns:
        cells = [
            cell[0] if isinstance(cell, list) and cell else cell for cell in sample.values(name)
        ]
        texts = [cell for cell in cells if isinstance(cell, str)][:_TRIED]
        for folder in folders:
            finder = FileFinder(sample.path.parent, folder or sample.path.parent)
            found = sum(_is_file(finder, text) for text in texts)
            if best is None or found > best.found:
                best = ImagePlace(name, folder, found, len(texts))
            if texts and found == len(texts):
                return best
    return best


def survey(
    paths: Sequence[str], *, most: int = OPENED, progress: Callable[[int, int], None] | None = None
) -> ImageSurvey:
    """Look up every file, and decode some of them.

    Parameters
    ----------
    paths : sequence of str
    most : int
        How many are decoded, at most.
    progress : callable, optional
        Called with the number of files decoded, and of those to decode.
    """
    distinct = list(dict.fromkeys(paths))
    there = [path for path in distinct if _exists(path)]
    step = max(1, -(-len(there) // most)) if most else len(there) + 1
    drawn = there[::step] if most else []
    formats: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    example = None
    for number, path in enumerate(drawn, start=1):
        try:
            data = read_bytes(path, what=_WHAT)
            formats[_format(data)] += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ingest says so of each
                load_image(data, what=_WHAT)
            example = example or path
        except ImageError as error:
            reasons[str(error).removeprefix(f"{_WHAT}: ")] += 1
        if progress is not None:
            progress(number, len(drawn))
    return ImageSurvey(
        named=len(distinct),
        missing=len(distinct) - len(there),
        opened=len(drawn),
        readable=len(drawn) - sum(reasons.values()),
        formats=dict(formats.most_common()),
        unreadable=dict(reasons.most_common()),
        example=example,
    )


def _format(data: bytes) -> str:
    if is_dicom(data):
        return "DICOM"
    if (foreign := foreign_format(data)) is not None:
        return foreign
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            return image.format or "unknown"
    except Exception:
        return "unknown"


def _exists(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _like_images(sample: TableSample) -> list[str]:
    """Return columns of image files: by their names' endings, and those that are called so."""
    like = [column for column in sample.columns if share_of_images(sample.values(column)) > 0.5]
    return [*sorted(like, key=lambda c: c not in named(sample, "image")), *_others(sample, like)]


def _others(sample: TableSample, like: Sequence[str]) -> list[str]:
    return [column for column in named(sample, "image") if column not in like]


def _folders(home: Path) -> list[Path]:
    """Return the folders in a folder, and those in these."""
    try:
        inner = [path for path in sorted(home.iterdir()) if path.is_dir()]
        inner = [path for path in inner if not path.name.startswith(".")][:_TRIED]
        below = [path for folder in inner for path in sorted(folder.iterdir()) if path.is_dir()]
    except OSError:
        return []
    return [*inner, *below[:_TRIED]]


def _is_file(finder: FileFinder, name: str) -> bool:
    try:
        return Path(finder.find(name)).is_file()
    except (InputError, OSError, ValueError):  # a drive of Windows, a character 0
        return False
