"""The first rows of a table that nobody has described: its separator, encoding and columns."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import is_missing, unusable
from mrrag_llamaindex.files.tables.table import SUFFIXES, Table

ROWS: Final = 2000
"""Rows that columns are told by: enough to see that an identifier repeats."""

_DELIMITED = (".csv", ".tsv")
_SEPARATORS: Final = {";": ";", "\t": "tab", "|": "|", ",": ","}
_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PART = 1 << 20


@dataclass(frozen=True)
class TableSample:
    """The first rows of a table, as it is to be read.

    Attributes
    ----------
    path : Path
    rows : tuple of dict
        At most `ROWS`; rows that cannot be read are left out.
    encoding, delimiter : str or None
        What ``mrrag ingest`` has to be told; None for what it takes by itself.
    """

    path: Path
    rows: tuple[dict[str, Any], ...]
    encoding: str | None = None
    delimiter: str | None = None

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> TableSample:
        """Read it; what is not given is found out.

        Raises
        ------
        InputError
            If the file is no table that is read here, or has no rows.
        """
        source = Path(path)
        if source.suffix.lower() in SUFFIXES[:-1] and encoding is None:
            encoding = _encoding(source)
        if source.suffix.lower() in _DELIMITED and delimiter is None:
            delimiter = _delimiter(source, encoding)
        table = Table.open(source, (), (), None, None, encoding=encoding, delimiter=delimiter)
        rows = tuple(row for row in islice(table.rows, ROWS) if isinstance(row, dict))
        if not rows:
            raise InputError(f"{source.name} has no row that can be read")
        return cls(source, rows, encoding, delimiter)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in the order in which they are met."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row if name))

    def values(self, column: str) -> list[Any]:
        """Cells of a column that hold something."""
        cells = (row.get(column) for row in self.rows)
        return [cell for cell in cells if not is_missing(cell)]


def _encoding(source: Path) -> str | None:
    """Return None for UTF-8 and for what names itself in its error, else ``cp1252``.

    Every byte is a character of Windows' Western code page, so nothing can prove it; it is what
    spreadsheets of hospitals save where it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with source.open("rb") as handle:
            start = handle.read(4096)
            if start.startswith(_MARKS[:2]):
                return "utf-32"
            if start.startswith(_MARKS[2:]):
                return "utf-16"
            if b"\0" in start:
                return None  # another kind of file, or UTF-16: the table's own error says which
            decoder.decode(start)
            while part := handle.read(_PART):
                decoder.decode(part)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    except OSError as error:
        raise unusable(source, error, "read") from None
    return None


def _delimiter(source: Path, encoding: str | None) -> str | None:
    """Return the separator of the header, None where it is the usual one of such files."""
    usual = "\t" if source.suffix.lower() == ".tsv" else ","
    with source.open("rb") as handle:
        head = handle.read(_PART).decode(encoding or "utf-8", errors="replace")
    header = next((line for line in head.splitlines() if line.strip()), "")
    counts = {mark: header.count(mark) for mark in _SEPARATORS}
    best = max(counts, key=lambda mark: (counts[mark], mark == usual))
    return None if best == usual or not counts[best] else _SEPARATORS[best]
