"""Finding the files of a data set, and their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import jsonl_rows, read_bytes

PathLike = str | os.PathLike[str]

QUESTION_FILE = "--question-file (questions= in Python)"
REPORT_FILE = "--report-file (reports= in Python)"


def check_root(root: PathLike) -> Path:
    """Return the folder of a data set; raise `InputError` if it is none."""
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"the data set's folder {folder.name!r} does not exist")
    return folder


def find_file(root: Path, names: Sequence[str], what: str, option: str) -> Path:
    """Return the first of the files that is there.

    Raises
    ------
    InputError
        If none is; it lists what was looked for, and the option that names another file.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(
        f"no {what} below {root.name!r}; looked for {', '.join(names)}. Name yours with {option}"
    )


def existing(root: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return those of the folders that exist."""
    return tuple(root / name for name in names if (root / name).is_dir())


def rows_of(source: Path) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a ``.jsonl`` file or of a ``.json`` list: objects, or why one is none.

    Raises
    ------
    InputError
        If the file cannot be read or is neither.
    """
    kind = source.suffix.lower()
    if kind == ".jsonl":
        rows = jsonl_rows(source)
        next(rows, None)
        yield from rows
        return
    if kind != ".json":
        raise InputError(f"{source.name}: rows are read from .jsonl files or .json lists")
    try:
        data = json.loads(read_bytes(source).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InputError(f"{source.name} is not valid JSON") from None
    if not isinstance(data, list):
        raise InputError(f"{source.name} is a JSON {type(data).__name__}, not a list of rows")
    for row in data:
        yield row if isinstance(row, dict) else f"is a JSON {type(row).__name__}, not an object"


class Images:
    """Image files below some folders; each is looked for once.

    Parameters
    ----------
    folders : sequence of Path
        The first that has the file wins.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._known: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """Return the path of an image, or None where it is missing."""
        if name not in self._known:
            places = (folder / name for folder in self._folders)
            self._known[name] = next((str(place) for place in places if place.is_file()), None)
        return self._known[name]
