"""Reads image/report pairs from a table: csv, or one JSON object per line.

What concerns the whole table (a missing column, another separator, another encoding) raises
before or while reading; what concerns one row gives a `Skipped` in its place, and reading goes on.
Nothing is guessed: csv cells stay text, so ``007`` keeps its zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import Table
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair, Skipped

REQUIRED = ("pair_id", "image", "report")
"""Roles that every table must fill; an empty cell means that the pair lacks that half."""

OPTIONAL = ("patient_id", STUDY_KEY)
"""Roles filled when there is such a column. Every other column becomes metadata."""

Item = TypeVar("Item")


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
    table = Table.open(path, REQUIRED, OPTIONAL, columns, images)
    return read_rows(table, "pair_id", lambda row: _pair(table, row))


def read_rows(
    table: Table, key: str, item_of: Callable[[dict[str, Any]], Item]
) -> Iterator[Item | Skipped]:
    """Yield what each row becomes, or why it becomes nothing; `key` is the role of its id."""
    for number, row in enumerate(table.rows, start=1):
        if isinstance(row, str):
            yield Skipped(number, None, row)
            continue
        try:
            table.check_row(row)
            yield item_of(row)
        except InputError as error:
            name = row.get(table.columns[key])
            yield Skipped(number, str(name) if name not in (None, "") else None, str(error))


def _pair(table: Table, row: dict[str, Any]) -> Pair:
    roles = set(table.columns.values())
    metadata = {name: value for name, value in row.items() if name and name not in roles}
    if (study := table.identifier(row, STUDY_KEY)) is not None:
        metadata[STUDY_KEY] = study
    return Pair(
        image=table.path(row, "image"),
        report=table.text(row, "report"),
        # An absent id is "", which the pair refuses in words that fit.
        pair_id=table.identifier(row, "pair_id") or "",
        patient_id=table.identifier(row, "patient_id"),
        metadata={name: value for name, value in metadata.items() if value != ""},
    )
