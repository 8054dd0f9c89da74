"""Rows of CSV and JSON-lines tables, read as they stand and named in errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
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
