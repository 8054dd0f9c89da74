"""A table with roles: which column holds the id, which the image, and what a cell means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import identifier, is_missing
from mrrag_llamaindex.files.tables.delimited import csv_rows
from mrrag_llamaindex.files.tables.excel import excel_rows
from mrrag_llamaindex.files.tables.json_rows import json_rows, jsonl_rows
from mrrag_llamaindex.files.tables.named_files import FileFinder

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx")
_WITH_HEADER = (".csv", ".tsv", ".xlsx")
_JOIN = "+"
_ROWS_NAMED = 10


@dataclass
class Table:
    """An open table.

    Attributes
    ----------
    sources : dict of str to tuple of str
        Role to the columns that fill it: one, or several that are joined.
    required : tuple of str
        Roles whose columns every row must have.
    finder : FileFinder
        Finds the files that it names.
    rows : iterator
        Each row as a dict, or as the reason why it is none.
    row : int
        Number of the row in hand, from 1.
    """

    sources: dict[str, tuple[str, ...]]
    required: tuple[str, ...]
    finder: FileFinder
    rows: Iterator[dict[str, Any] | str]
    row: int = 0
    _notes: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        required: Sequence[str],
        optional: Sequence[str],
        columns: Mapping[str, str] | None,
        folder: str | os.PathLike[str] | None,
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        joinable: Sequence[str] = (),
    ) -> Table:
        """Open a table of one of the `SUFFIXES`, and check its header, if it has one.

        Roles have columns of their own names unless `columns` says otherwise, and what it names
        must be there. Those in `joinable` may be named as several columns, ``a+b``.

        Raises
        ------
        InputError
            If the file cannot be read, is not such a table, lacks a column, or has no rows.
        """
        source, names = Path(path), dict(columns or {})
        roles = (*required, *optional)
        if unknown := sorted(names.keys() - set(roles)):
            raise InputError(f"columns can be named for {', '.join(roles)}; not for {unknown[0]!r}")
        kind = source.suffix.lower()
        # Errors in the header should come now, not when the first row is asked for.
        rows = _reader(source, kind, encoding, _separator(source, kind, delimiter))(source)
        header = next(rows, None)
        if header is None:
            raise InputError(f"{source.name} is empty")
        table = cls(
            {role: (names.get(role, role),) for role in roles},
            tuple(role for role in roles if role in required or role in names),
            FileFinder(source.parent, source.parent if folder is None else Path(folder)),
            rows,
        )
        for role in joinable:
            parts = tuple(part.strip() for part in names.get(role, role).split(_JOIN))
            if len(parts) > 1 and names[role] not in header and all(parts):
                table.sources[role] = parts
        if kind in _WITH_HEADER:
            table._check_header(header, source.name, delimited=kind != ".xlsx")
        first = next(rows, None)
        if first is None:
            raise InputError(f"{source.name} has no rows, only a header")
        table.rows = chain([first], rows)
        return table

    def _check_header(self, header: list[str], file: str, *, delimited: bool) -> None:
        for role in self.required:
            for name in self.sources[role]:
                if name in header:
                    continue
                if delimited and len(header) == 1:
                    _name_separator(header[0], file)
                raise InputError(
                    f"{file} has no column {name!r} (for the {role}); it has: "
                    f"{', '.join(header)}. Name the right one, e.g. {role}=COLUMN"
                )

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Raise `InputError` if a row lacks a required field."""
        for role in self.required:
            if not any(name in row for name in self.sources[role]):
                fields = ", ".join(map(str, row))
                name = _JOIN.join(self.sources[role])
                raise InputError(f"has no field {name!r}; it has: {fields}")

    @property
    def used(self) -> set[str]:
        """Columns that fill a role."""
        return {name for names in self.sources.values() for name in names}

    def note(self, text: str) -> None:
        """Note something about the row in hand."""
        self._notes.setdefault(text, []).append(self.row)

    @property
    def notes(self) -> list[str]:
        """What was noted so far, each with the rows that it is about."""
        return [f"{text}: {_rows_of(rows)}" for text, rows in self._notes.items()]

    def cell(self, row: Mapping[str, Any], role: str) -> Any:
        """Return the value of a role of one column."""
        return row.get(self.sources[role][0])

    def identifier(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return the id in a row, see `identifier`."""
        return identifier(self.cell(row, role))

    def text(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return the text of a role, `None` where there is none."""
        return _text(self.cell(row, role), role)

    def joined_text(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return the texts of a role's columns, one below the other, without the missing ones."""
        cells = [row.get(name) for name in self.sources[role]]
        texts = [_text(cell, role) for cell in cells if not is_missing(cell)]
        return "\n".join(text for text in texts if text) or None

    def path(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return a file's path, `None` for an empty cell."""
        return self.path_of(self.cell(row, role), role)

    def path_of(self, cell: Any, role: str) -> str | None:
        """Return the path of a file that a cell names, `None` for an empty one."""
        return None if is_missing(cell) else self.finder.find(_text(cell, role) or "")


def _text(value: Any, role: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"the {role} is a {type(value).__name__}, not text")
    return value


def _rows_of(rows: Sequence[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f", ... ({len(rows):,} rows)" if len(rows) > _ROWS_NAMED else ""
    return f"rows {', '.join(map(str, rows[:_ROWS_NAMED]))}{more}"


def _separator(source: Path, kind: str, delimiter: str | None) -> str:
    if delimiter is None:
        return "\t" if kind == ".tsv" else ","
    if kind not in (".csv", ".tsv"):
        raise InputError(f"{source.name}: a delimiter is for .csv and .tsv files")
    mark = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or mark in '"\r\n' or not mark.isascii():
        raise InputError(
            f"--delimiter: {delimiter!r} is not one character such as ';' or '|', or tab"
        )
    return mark


def _reader(
    source: Path, kind: str, encoding: str | None, separator: str
) -> Callable[[Path], Iterator[Any]]:
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".csv": partial(csv_rows, encoding=encoding, delimiter=separator),
        ".tsv": partial(csv_rows, encoding=encoding, delimiter=separator),
        ".json": partial(json_rows, encoding=encoding),
        ".jsonl": partial(jsonl_rows, encoding=encoding),
        ".xlsx": excel_rows,
    }
    if kind not in readers:
        raise InputError(
            f"{source.name}: tables are {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files, not "
            f"{kind!r}"
        )
    if kind == ".xlsx" and encoding is not None:
        raise InputError(f"{source.name}: a workbook has no encoding to be named")
    return readers[kind]


def _name_separator(header: str, file: str) -> None:
    for mark, word, option in ((";", "';'", "';'"), ("\t", "tabs", "tab"), ("|", "'|'", "'|'")):
        if re.search(re.escape(mark), header):
            raise InputError(
                f"{file} seems to be separated by {word}, not by commas: save it as comma "
                f"separated, or say so (--delimiter {option})"
            )
    if "," in header:
        raise InputError(f"{file} seems to be separated by commas: name it .csv (--delimiter ',')")
