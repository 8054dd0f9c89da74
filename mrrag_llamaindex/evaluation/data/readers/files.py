"""The files of a data set, their rows, and its images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import DUPLICATE_ID, UNREADABLE, Problem, row_name
from mrrag_llamaindex.files.rows import identifier, read_bytes
from mrrag_llamaindex.files.tables.delimited import csv_rows
from mrrag_llamaindex.files.tables.json_rows import jsonl_rows

T = TypeVar("T")
PathLike = str | os.PathLike[str]

QUESTION_FILE = "--question-file (questions= in Python)"
REPORT_FILE = "--report-file (reports= in Python)"


def check_root(root: PathLike) -> Path:
    """Return the folder of a data set; raise `InputError` if it is none."""
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"the data set's folder {folder.name!r} does not exist")
    return folder


def question_file(root: Path, given: PathLike | None, names: Sequence[str]) -> Path:
    """Return the question file: the given one, or the first of the usual ones, see `find_file`."""
    if given is not None:
        return Path(given)
    return find_file(root, names, "question file", QUESTION_FILE)


def find_file(root: Path, names: Sequence[str], what: str, option: str) -> Path:
    """Return the first of the files that exists.

    Parameters
    ----------
    root : pathlib.Path
    names : sequence of str
        Below it; a ``*`` stands for anything.
    what, option : str
        For errors: what is looked for, and the option that names another file.

    Raises
    ------
    InputError
        If none does, or several fit one of the names: which one is meant is not ours to choose.
    """
    for name in names:
        found = sorted(path for path in root.glob(name) if path.is_file())
        if len(found) > 1:
            several = ", ".join(path.name for path in found)
            raise InputError(
                f"several files below {root.name!r} fit {name}: {several}. Name yours with {option}"
            )
        if found:
            return found[0]
    raise InputError(
        f"no {what} below {root.name!r}; looked for {', '.join(names)}. Name yours with {option}"
    )


def unique_rows(
    source: Path,
    id_field: str,
    parse: Callable[[dict[str, Any], str, str], T | Problem],
    problems: list[Problem],
    known: Container[str] = (),
    *,
    number_duplicates: bool = False,
) -> Iterator[tuple[str, dict[str, Any], T]]:
    """Yield what the rows of a file hold, each with an id of its own; others become problems.

    Parameters
    ----------
    source : pathlib.Path
    id_field : str
        Empty: rows have none, and are named by the file and their number.
    parse : callable
        Takes a row, its id, and the name that a problem gives it; may raise `InputError`.
    problems : list of Problem
        Gets one for each row that is left out, in the order of the file.
    known : container of str
        Ids that an earlier file has taken.
    number_duplicates : bool
        Keep a row whose id is taken, under a name of its own (``7#2``), instead of leaving it out.

    Yields
    ------
    where : str
        The row's name without its id, for problems.
    row : dict
    item : GoldQuestion or Pair
    """
    seen: set[str] = set()
    for number, row in enumerate(rows_of(source), start=1):
        where = row_name(source.name, number)
        if isinstance(row, str):
            problems.append(Problem(UNREADABLE, where, row))
            continue
        named, name = where, None
        try:
            name = identifier(row.get(id_field)) if id_field else f"{source.stem}-{number}"
            if name is None:
                raise InputError(f"it has no {id_field}")
            if number_duplicates:
                name = _unused(name, seen)
            named = row_name(source.name, number, name)
            item = parse(row, name, named)
        except InputError as error:
            item = Problem(UNREADABLE, named, str(error))
        if isinstance(item, Problem):
            problems.append(item)
        elif name in seen or name in known:
            problems.append(Problem(DUPLICATE_ID, named, "an earlier row has the same id"))
        else:
            seen.add(str(name))
            yield where, row, item


def _unused(name: str, taken: Container[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}#{number}"
    return unused


def rows_of(source: Path) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of a ``.jsonl`` file, a ``.json`` list or a ``.csv`` table with a header.

    Each is an object, or the reason why it is none.

    Raises
    ------
    InputError
        If the file cannot be read or is neither.
    """
    kind = source.suffix.lower()
    if kind in (".jsonl", ".csv"):
        rows = jsonl_rows(source) if kind == ".jsonl" else csv_rows(source)
        next(rows, None)
        yield from rows
        return
    if kind != ".json":
        raise InputError(f"{source.name}: rows are read from .jsonl, .csv or .json files")
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

    @classmethod
    def below(cls, root: Path, given: PathLike | None, names: Sequence[str]) -> Images:
        """Look in the given folder, or in those of the usual ones below the root that exist."""
        if given is not None:
            return cls([check_root(given)])
        return cls([root / name for name in names if (root / name).is_dir()])

    def find(self, name: str) -> str | None:
        """Return the path of an image, or None where it is missing."""
        if name not in self._known:
            places = (folder / name for folder in self._folders)
            self._known[name] = next((str(place) for place in places if place.is_file()), None)
        return self._known[name]
