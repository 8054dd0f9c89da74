"""Reads image/report pairs from a table: csv, or one JSON object per line.

What concerns the whole table (a missing column, another separator, another encoding) raises
before or while reading; what concerns one row gives a `Skipped` in its place, and reading goes on.
Nothing is guessed: csv cells stay text, so ``007`` keeps its zeros.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import csv_rows, identifier, jsonl_rows
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair, Skipped

REQUIRED = ("pair_id", "image", "report")
"""Roles that every table must fill; an empty cell means that the pair lacks that half."""

OPTIONAL = ("patient_id", STUDY_KEY)
"""Roles filled when there is such a column. Every other column becomes metadata."""


def read_pairs(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Iterator[Pair | Skipped]:
    """Yield the table's rows as pairs, in order, one item for each data row.

    Parameters
    ----------
    path
        A ``.csv`` (comma separated, with a header) or ``.jsonl`` file, in UTF-8, with or without
        a byte order mark. Blank lines are no rows.
    columns
        Role to column name, for roles whose column has another name:
        ``{"pair_id": "filename", "image": "filename"}``. Two roles may share a column.
    images
        Folder against which relative image paths are resolved; by default the table's own.

    Yields
    ------
    Pair or Skipped
        `Skipped` for a row that cannot be a pair, with its 1-based row number and the reason.

    Raises
    ------
    InputError
        If the file cannot be read, is not such a table, or lacks a column (named, with those
        that it has). A csv file is checked up to its header when this function is called.
    """
    source = Path(path)
    roles = _roles(columns or {})
    folder = Path(images) if images is not None else source.parent
    kind = source.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise InputError(f"{source.name}: pairs are read from .csv or .jsonl files, not {kind!r}")
    # Errors in the header should come now, not when the first row is asked for.
    rows = csv_rows(source) if kind == ".csv" else jsonl_rows(source)
    try:
        names = next(rows)
    except StopIteration:
        raise InputError(f"{source.name} is empty") from None
    required = {role: name for role, name in roles.items() if role in REQUIRED}
    required.update(columns or {})
    if kind == ".csv":
        _check_columns(required, names, source.name)
    return _pairs(rows, roles, required, folder)


def _pairs(
    rows: Iterator[Any], roles: dict[str, str], required: dict[str, str], folder: Path
) -> Iterator[Pair | Skipped]:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield Skipped(number, None, row)
            continue
        try:
            yield _pair(row, roles, required, folder)
        except InputError as error:
            named = row.get(roles["pair_id"])
            yield Skipped(number, str(named) if named not in (None, "") else None, str(error))


def _pair(
    row: dict[str, Any], roles: dict[str, str], required: dict[str, str], folder: Path
) -> Pair:
    absent = [name for name in required.values() if name not in row]
    if absent:
        raise InputError(f"has no field {absent[0]!r}; it has: {', '.join(map(str, row))}")
    image = row[roles["image"]]
    report = row[roles["report"]]
    for value, role in ((image, "image"), (report, "report")):
        if value is not None and not isinstance(value, str):
            raise InputError(f"the {role} is a {type(value).__name__}, not text")
    metadata = {name: value for name, value in row.items() if name not in roles.values() and name}
    study = identifier(row.get(roles[STUDY_KEY]))
    if study is not None:
        metadata[STUDY_KEY] = study
    image = image.strip() if image else None
    return Pair(
        image=str(folder / image) if image else None,
        report=report,
        # An absent id is "", which the pair refuses in words that fit.
        pair_id=identifier(row[roles["pair_id"]]) or "",
        patient_id=identifier(row.get(roles["patient_id"])),
        metadata={name: value for name, value in metadata.items() if value != ""},
    )


def _roles(columns: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(columns) - set(REQUIRED) - set(OPTIONAL))
    if unknown:
        raise InputError(
            f"columns can be named for {', '.join(REQUIRED + OPTIONAL)}; not for {unknown[0]!r}"
        )
    return {role: columns.get(role, role) for role in REQUIRED + OPTIONAL}


def _check_columns(required: Mapping[str, str], names: list[str], file: str) -> None:
    for role, name in required.items():
        if name in names:
            continue
        if len(names) == 1:
            for mark, word in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
                if mark in names[0]:
                    raise InputError(
                        f"{file} seems to be separated by {word}, not by commas: save it as "
                        "comma separated"
                    )
        raise InputError(
            f"{file} has no column {name!r} (for the {role}); it has: {', '.join(names)}. "
            f"Name the right one, e.g. {role}=COLUMN"
        )
