"""Rows of an Excel workbook."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import DateText, unusable

_ZEROS = re.compile(r"0{2,}")
_MERGED = b"<mergeCell "


def excel_rows(source: Path) -> Iterator[Any]:
    """Yield the header, then each row as a dict, or as the reason why it is none.

    Numbers stay numbers, but those shown with leading zeros (format ``000``) become that text;
    dates become ISO 8601. Empty rows are no rows.

    Raises
    ------
    InputError
        If openpyxl is not installed, or the file is no workbook, holds several sheets with
        contents, merged cells, or two columns of one name.
    """
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f'{source.name}: Excel tables need openpyxl: pip install "mrrag-llamaindex[excel]", or '
            "save it as csv"
        ) from None
    try:
        with zipfile.ZipFile(source) as archive:
            sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
            if any(_MERGED in archive.read(name) for name in sheets):
                raise InputError(
                    f"{source.name} has merged cells, whose value is that of one row only: unmerge "
                    "them and fill each row"
                )
        book = openpyxl.load_workbook(source, read_only=True, data_only=True)
        rows = _only_sheet(book, source)
        yield from _rows(rows, source)
        book.close()
    except InputError:
        raise
    except OSError as error:
        raise unusable(source, error, "read") from None
    except Exception as error:
        # openpyxl raises whatever its parsers do.
        raise InputError(
            f"{source.name} is not a readable .xlsx workbook ({type(error).__name__}): save it "
            "again, or as .csv or .jsonl"
        ) from None


def _only_sheet(book: Any, source: Path) -> Iterator[Any]:
    full = [
        sheet
        for sheet in book.worksheets
        if any(value is not None for row in sheet.iter_rows(values_only=True) for value in row)
    ]
    if len(full) > 1:
        names = ", ".join(repr(sheet.title) for sheet in full)
        raise InputError(
            f"{source.name} has {len(full)} sheets ({names}): keep the one that is the table"
        )
    return iter(full[0].iter_rows()) if full else iter(())


def _rows(rows: Iterator[Any], source: Path) -> Iterator[Any]:
    names: list[str] | None = None
    for cells in rows:
        values = [_value(cell) for cell in cells]
        if all(value is None for value in values):
            continue
        if names is None:
            names = ["" if value is None else str(value).strip() for value in values]
            # A sheet whose rows differ in length fills the shorter ones, the header as well.
            while not names[-1]:
                names.pop()
            twice = sorted({name for name in names if name and names.count(name) > 1})
            if twice:
                raise InputError(f"{source.name} has two columns named {twice[0]!r}")
            yield names
            continue
        # A row may be shorter than the header.
        values += [None] * (len(names) - len(values))
        row = dict(zip(names, values, strict=False))
        faulty = next((n for n, c in zip(names, cells, strict=False) if c.data_type == "e"), None)
        if any(value is not None for value in values[len(names) :]):
            yield f"has {len(values)} cells, but the header has {len(names)}"
        elif faulty is not None:
            yield f"has an error of Excel's in the column {faulty!r}"
        else:
            yield row


def _value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return DateText(value.isoformat())
    if isinstance(value, datetime.timedelta):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        shown = _ZEROS.fullmatch(cell.number_format or "")
        return f"{value:0{len(shown.group())}d}" if shown else value
    return value
