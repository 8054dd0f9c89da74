"""Rows of CSV and JSON-lines tables, read as they stand and named in errors."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mrrag_llamaindex.errors import InputError

_LARGEST_CELL = 100_000_000


def identifier(value: Any) -> str | None:
    """Return an id as text; a JSON integer is its digits, an empty cell is `None`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value.strip() or None
    if value is not None:
        raise InputError(f"an identifier is a {type(value).__name__}; write it as text")
    return None


def read_bytes(source: Path) -> bytes:
    """Return the contents of a file; what the system says against it becomes an `InputError`."""
    try:
        return source.read_bytes()
    except OSError as error:
        raise unusable(source, error, "read") from None


def unusable(source: Path, error: OSError, what: str) -> InputError:
    """Return the error for a file that cannot be read or written, named without its folder."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{source.name} cannot be {what}: {reason}")


@dataclass(frozen=True)
class Table:
    """An open table.

    Attributes
    ----------
    columns : dict
        Role to column name.
    required : tuple of str
        Roles whose column every row must have.
    folder : Path
        What relative paths in it are relative to.
    rows : iterator
        Each row as a dict, or as the reason why it is none.
    """

    columns: dict[str, str]
    required: tuple[str, ...]
    folder: Path
    rows: Iterator[dict[str, Any] | str]

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        required: Sequence[str],
        optional: Sequence[str],
        columns: Mapping[str, str] | None,
        folder: str | os.PathLike[str] | None,
    ) -> Table:
        """Open a ``.csv`` or ``.jsonl`` table; a csv file is checked up to its header.

        Roles have columns of their own names unless `columns` says otherwise, and what it names
        must be there. Raises `InputError` if the file cannot be read, is not such a table, or
        lacks a column.
        """
        source, names = Path(path), dict(columns or {})
        roles = (*required, *optional)
        if unknown := sorted(names.keys() - set(roles)):
            raise InputError(f"columns can be named for {', '.join(roles)}; not for {unknown[0]!r}")
        readers = {".csv": csv_rows, ".jsonl": jsonl_rows}
        kind = source.suffix.lower()
        if kind not in readers:
            raise InputError(f"{source.name}: tables are .csv or .jsonl files, not {kind!r}")
        # Errors in the header should come now, not when the first row is asked for.
        rows = readers[kind](source)
        header = next(rows, None)
        if header is None:
            raise InputError(f"{source.name} is empty")
        table = cls(
            {role: names.get(role, role) for role in roles},
            tuple(role for role in roles if role in required or role in names),
            source.parent if folder is None else Path(folder),
            rows,
        )
        if kind == ".csv":
            table._check_header(header, source.name)
        return table

    def _check_header(self, header: list[str], file: str) -> None:
        for role in self.required:
            name = self.columns[role]
            if name in header:
                continue
            for mark, word in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
                if len(header) == 1 and mark in header[0]:
                    raise InputError(
                        f"{file} seems to be separated by {word}, not by commas: save it as "
                        "comma separated"
                    )
            raise InputError(
                f"{file} has no column {name!r} (for the {role}); it has: {', '.join(header)}. "
                f"Name the right one, e.g. {role}=COLUMN"
            )

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Raise `InputError` if a row lacks a required field."""
        for role in self.required:
            if self.columns[role] not in row:
                fields = ", ".join(map(str, row))
                raise InputError(f"has no field {self.columns[role]!r}; it has: {fields}")

    def identifier(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return the id in a row, see `identifier`."""
        return identifier(row.get(self.columns[role]))

    def text(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return the text of a cell, `None` where there is none."""
        value = row[self.columns[role]]
        if value is not None and not isinstance(value, str):
            raise InputError(f"the {role} is a {type(value).__name__}, not text")
        return value

    def path(self, row: Mapping[str, Any], role: str) -> str | None:
        """Return a file's path, `None` for an empty cell."""
        name = (self.text(row, role) or "").strip()
        return str(self.folder / name) if name else None


def csv_rows(source: Path) -> Iterator[Any]:
    """Yield the header, then each row as a dict, or as the reason why it is none."""
    # Process-wide, and only ever raised: by default a cell of 131,072 characters ends the file.
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    with _open(source) as handle:
        reader = csv.reader(handle, strict=True)
        names: list[str] | None = None
        number = 0
        try:
            for cells in reader:
                if not cells:
                    continue
                if names is None:
                    names = [cell.strip() for cell in cells]
                    twice = sorted({name for name in names if name and names.count(name) > 1})
                    if twice:
                        raise InputError(f"{source.name} has two columns named {twice[0]!r}")
                    yield names
                    continue
                number += 1
                if len(cells) == len(names):
                    yield dict(zip(names, cells, strict=True))
                else:
                    yield (
                        f"has {len(cells)} cells, but the header has {len(names)}: a comma or a "
                        "quote inside a text may need quoting"
                    )
        except csv.Error as error:
            raise InputError(
                f"{source.name}: after data row {number} (line {reader.line_num}) the quoting is "
                f"broken ({error}); no row after it can be read"
            ) from None
        except UnicodeDecodeError as error:
            raise _not_utf8(source, error) from None


def jsonl_rows(source: Path) -> Iterator[Any]:
    """Yield the (unknown) header, then each row as a dict, or as the reason why it is none."""
    with _open(source) as handle:
        empty = True
        try:
            for line in handle:
                if not line.strip():
                    continue
                if empty:
                    empty = False
                    yield []
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    where = f" at character {error.colno}" if hasattr(error, "colno") else ""
                    yield f"is not valid JSON{where}"
                    continue
                kind = type(row).__name__
                yield row if isinstance(row, dict) else f"is a JSON {kind}, not an object"
        except UnicodeDecodeError as error:
            raise _not_utf8(source, error) from None


def _open(source: Path) -> TextIO:
    try:
        return source.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise unusable(source, error, "read") from None


def _not_utf8(source: Path, error: UnicodeDecodeError) -> InputError:
    bad = error.object[error.start]
    return InputError(f"{source.name} is not UTF-8 text (byte 0x{bad:02x}): save it as UTF-8")
