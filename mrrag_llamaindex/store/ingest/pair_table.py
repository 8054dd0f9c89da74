"""Reads image/report pairs from a table: csv, tsv, json, JSON lines or an Excel workbook.

What concerns the whole table (a missing column, another separator, another encoding) raises
before or while reading; what concerns one row gives a `Skipped` in its place, and reading goes on.
Nothing is guessed: csv cells stay text, so ``007`` keeps its zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import is_missing
from mrrag_llamaindex.files.tables.table import Table
from mrrag_llamaindex.store.ingest.views import number_views, views_of
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair, Skipped, is_reserved

REQUIRED = ("pair_id", "image", "report")
"""Roles that every table must fill; an empty cell means that the pair lacks that half."""

OPTIONAL = ("patient_id", STUDY_KEY)
"""Roles filled when there is such a column. Every other column becomes metadata."""

NO_PATIENT = "no patient_id, so these pairs are never left out together with their patient"

Item = TypeVar("Item")


class TableRows(Generic[Item]):
    """What a table's rows become, in order, and what was noted about them.

    An iterator; `notes` is complete at its end.
    """

    def __init__(self, items: Iterable[Item | Skipped], table: Table) -> None:
        self._items = iter(items)
        self._table = table

    def __iter__(self) -> TableRows[Item]:
        return self

    def __next__(self) -> Item | Skipped:
        return next(self._items)

    @property
    def notes(self) -> list[str]:
        """What was read in another way than it stands there, with the rows."""
        return self._table.notes


def read_pairs(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> TableRows[Pair]:
    """Yield the table's rows as pairs, in order: one or more pairs, or a `Skipped`, for each row.

    Parameters
    ----------
    path
        A ``.csv`` or ``.tsv`` file with a header, a ``.json`` file (an array of objects), a
        ``.jsonl`` file (one object per line), or an ``.xlsx`` workbook with one sheet (the extra
        ``excel``). Blank lines are no rows.
    columns
        Role to column name, for roles whose column has another name:
        ``{"pair_id": "filename", "image": "filename"}``. Two roles may share a column, and a
        report may be joined from several: ``{"report": "findings+impression"}``.
    images
        Folder against which relative image paths are resolved; by default the table's own.
    encoding
        Of a text file; by default UTF-8, with or without a byte order mark.
    delimiter
        Between cells: one character, or ``"tab"``; by default a comma, in ``.tsv`` files a tab.

    Yields
    ------
    Pair or Skipped
        `Skipped` for a row that cannot be a pair, with its 1-based row number and the reason.

    Raises
    ------
    InputError
        If the file cannot be read, is not such a table, lacks a column (named, with those that it
        has) or has no rows. All of this is checked when the function is called.

    Notes
    -----
    Words for nothing (``nan``, ``None``, ``NULL``, ``n/a``) in a report, an image or an identifier
    are missing values. A report that is one line ending in ``.txt`` is the name of a text file,
    whose contents are the report. A list of images makes several pairs of one study, and so do
    rows that repeat the ids of pair and study with another image, see `store.ingest.views`.
    """
    table = Table.open(
        path,
        REQUIRED,
        OPTIONAL,
        columns,
        images,
        encoding=encoding,
        delimiter=delimiter,
        joinable=("report",),
    )
    rows = read_rows(table, "pair_id", lambda row: _pairs(table, row, encoding))
    return TableRows(number_views(rows), table)


def read_rows(
    table: Table, key: str, items_of: Callable[[dict[str, Any]], Iterable[Item]]
) -> Iterator[Item | Skipped]:
    """Yield what each row becomes, or why it becomes nothing; `key` is the role of its id."""
    for number, row in enumerate(table.rows, start=1):
        table.row = number
        if isinstance(row, str):
            yield Skipped(number, None, row)
            continue
        try:
            table.check_row(row)
            items = list(items_of(row))
        except InputError as error:
            name = table.cell(row, key)
            yield Skipped(number, None if is_missing(name) else str(name), str(error))
            continue
        yield from items


def _pairs(table: Table, row: dict[str, Any], encoding: str | None) -> list[Pair]:
    report = table.joined_text(row, "report")
    if report is not None:
        limit = defaults.MAX_REPORT_CHARACTERS
        content = table.finder.text_file(report, encoding, limit)
        if content is not None:
            table.note("the report is the text of the file named there")
            report = None if is_missing(content) else content
    # An absent id is "", which the pair refuses in words that fit.
    pair_id = table.identifier(row, "pair_id") or ""
    patient_id = table.identifier(row, "patient_id")
    study_id = table.identifier(row, STUDY_KEY)
    metadata = _metadata(table, row)
    cell = table.cell(row, "image")
    cells = cell if isinstance(cell, list) else [cell]
    images = [table.path_of(item, "image") for item in cells]
    pairs = [
        Pair(image, report, name, patient_id, {**metadata, **study}, row=table.row)
        for image, name, study in views_of(images, pair_id, study_id)
    ]
    if patient_id is None and table.sources["patient_id"][0] in row:
        table.note(NO_PATIENT)
    return pairs


def _metadata(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that fill no role; one named like a key of ours gets another name."""
    used = table.used
    metadata: dict[str, Any] = {}
    for name, value in row.items():
        if not name or name in used or value == "":
            continue
        if is_reserved(name) or name in (*REQUIRED, *OPTIONAL, "image_path"):
            own, name = name, f"column_{name}"
            while name in row or name in metadata:
                name += "_"
            table.note(f"the column {own!r} is named like one of ours and is kept as {name!r}")
        metadata[name] = value
    return metadata
