"""The tables in a folder: which holds the pairs, and which questions about them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mrrag_llamaindex.doctor.start.columns import find_by_name, find_report, plain_name
from mrrag_llamaindex.doctor.start.images import find_images
from mrrag_llamaindex.doctor.start.sample import TableSample
from mrrag_llamaindex.doctor.start.steps import columns_option
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.tables.table import SUFFIXES
from mrrag_llamaindex.store.ingest.question_table import OPTIONAL, REQUIRED

_MOST: Final = 200
"""Tables of a folder that are looked at."""


def find_table(folder: Path) -> Path:
    """Return the one table of pairs in a folder.

    Raises
    ------
    InputError
        If there is none, or several; they are named.
    """
    found = [path for path in _tables(folder) if is_pairs(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"several tables here may be the pairs: {names}; name one: mrrag init TABLE"
        )
    raise InputError(
        f"no table of pairs lies here ({', '.join(SUFFIXES)} with a column of images and one of "
        "reports): name one, mrrag init TABLE, or see how it goes on synthetic studies, mrrag demo"
    )


def is_pairs(path: Path) -> bool:
    """Return whether a table has a column of images that are there, and one of reports."""
    try:
        sample = TableSample.read(path)
        place = find_images(sample, None, None)
    except InputError:
        return False
    asks = find_by_name(sample, "question") and find_by_name(sample, "answer")
    if place is None or not place.found or asks:
        return False
    return find_report(sample, [place.column]) is not None


def find_questions(pairs: Path) -> Path | None:
    """Return the first table beside that of the pairs whose columns are questions and answers."""
    others = (path for path in _tables(pairs.parent) if path.resolve() != pairs.resolve())
    return next((path for path in others if question_words(path) is not None), None)


def question_words(path: Path) -> list[str] | None:
    """Return what names a table of questions on a command line; None if it is none.

    The path, and the options with which ``mrrag mine`` reads it.
    """
    try:
        sample = TableSample.read(path)
        roles = _roles(sample)
        if roles is None:
            return None
        place = find_images(sample, None, roles["image"])
    except InputError:
        return None
    options = {
        "--columns": columns_option(roles),
        "--images": str(place.folder) if place and place.folder else None,
        "--encoding": sample.encoding,
        "--delimiter": sample.delimiter,
    }
    words = [str(path)]
    for name, value in options.items():
        words += [name, value] if value else []
    return words


def _roles(sample: TableSample) -> dict[str, str] | None:
    """Return role to column of a table of questions; None if a role is lacking."""
    roles: dict[str, str] = {}
    for role in (*REQUIRED, *OPTIONAL):
        choice = find_by_name(sample, role)
        # Columns called id or key are the question's own, not its pair's.
        other = role == "pair_id" and choice and plain_name(choice.column) != "pairid"
        if choice is not None and not other and choice.column not in roles.values():
            roles[role] = choice.column
    whole = all(role in roles for role in REQUIRED) and any(role in roles for role in OPTIONAL)
    return roles if whole else None


def _tables(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())[:_MOST]
