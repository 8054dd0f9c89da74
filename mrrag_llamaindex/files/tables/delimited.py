"""Rows of comma or tab separated text; a row that is broken costs itself and no other."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.tables.text import lines_of, undecodable

_LARGEST_CELL = 100_000_000
_IMAGE = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp|gif|webp|jp2|pgm|ppm)\s*$", re.IGNORECASE)
_NUL = "\uffff"
"""Stands for a character 0, at which the csv module of Python 3.10 ends the file."""


def csv_rows(source: Path, encoding: str | None = None, delimiter: str = ",") -> Iterator[Any]:
    """Yield the header, then each row as a dict, or as the reason why it is none.

    A row whose quoting is broken is one line, and reading goes on in the next. Empty lines, and
    those of nothing but separators, are no rows.

    Raises
    ------
    InputError
        If the file is no such text, two columns have one name, or it ends within a quoted text
        that its last line opened: it may have been cut off.
    """
    # Process-wide, and only ever raised: by default a cell of 131,072 characters ends the file.
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    lines = _Lines(lines_of(source, encoding))
    names: list[str] | None = None
    number = good = 0
    bad_text = ""
    while (record := _record(lines, delimiter)) is not None:
        if isinstance(record, csv.Error):
            if lines.ended and len(lines.record) < 2:
                raise InputError(
                    f"{source.name}: after data row {number} (line {lines.first}) the quoting is "
                    f"broken ({record}); no row after it can be read"
                )
            row: Any = (
                f"has broken quoting (line {lines.first}): a quote within a quoted text must be "
                "doubled"
            )
            lines.retry()
        elif names is not None and _holds_rows(record, lines.record[1:], delimiter):
            row = (
                f"holds what look like further rows (line {lines.first}): a quote before them was "
                "not closed"
            )
            lines.retry()
        elif not any(cell.strip() for cell in record):
            continue
        elif reason := undecodable("".join(record), encoding):
            bad_text, row = bad_text or reason, reason
        elif names is not None:
            row = _row(names, record)
        if names is None:
            if isinstance(record, csv.Error) or bad_text:
                raise InputError(f"{source.name} {bad_text or 'has a header of ' + row[4:]}")
            names = _header(record, source)
            yield names
            continue
        number += 1
        good += isinstance(row, dict)
        yield row
    if bad_text and not good:
        raise InputError(f"{source.name} {bad_text}")


class _Lines:
    """Lines, and those of the record in hand, which can be read again but for the first."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._number = 0
        self.record: list[str] = []
        self.ended = False

    @property
    def first(self) -> int:
        """Number of the record's first line, from 1."""
        return self._number - len(self.record) + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.record.append(line)
        self._number += 1
        return line.replace("\0", _NUL)

    def retry(self) -> None:
        """Read the record's lines from the second on again."""
        self._again.extendleft(reversed(self.record[1:]))
        self._number -= len(self.record) - 1
        self.record = []
        self.ended = False


def _record(lines: _Lines, delimiter: str) -> list[str] | csv.Error | None:
    """Return the cells of the next record, or what is wrong with it; None at the end."""
    lines.record = []
    try:
        return next(csv.reader(lines, strict=True, delimiter=delimiter), None)
    except csv.Error as error:
        return error


def _holds_rows(cells: list[str], inner: list[str], delimiter: str) -> bool:
    """Return whether lines inside a record are rows that an open quote has swallowed.

    That would give one patient's pair the reports of others. A row is told from a line of a report
    by as many cells, with the name of an image where the record has one.
    """
    places = [place for place, cell in enumerate(cells) if _IMAGE.search(cell)]
    for line in inner if places else ():
        try:
            row = next(csv.reader([line], delimiter=delimiter))
        except (csv.Error, StopIteration):
            continue
        if len(row) == len(cells) and any(_IMAGE.search(row[place]) for place in places):
            return True
    return False


def _header(cells: list[str], source: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if any(_NUL in name for name in names):
        raise InputError(f"{source.name} has a header that holds a character 0: is it text?")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{source.name} has two columns named {twice[0]!r}")
    return names


def _row(names: list[str], cells: list[str]) -> dict[str, str] | str:
    if len(cells) != len(names):
        return (
            f"has {len(cells)} cells, but the header has {len(names)}: a separator or a quote "
            "inside a text may need quoting"
        )
    if any(_NUL in cell for cell in cells):
        return "holds a character 0: is it text?"
    return dict(zip(names, cells, strict=True))
