"""The text of a file, line by line: its encoding is known or named, never guessed."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import unusable

_UNDECODABLE = re.compile("[\udc80-\udcff]")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format", "a SQLite database"),
)


def lines_of(source: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file with their ends.

    Parameters
    ----------
    source : Path
    encoding : str, optional
        By default UTF-8. Byte order marks at the start, one or several, are left out.

    Yields
    ------
    str
        Bytes that are not text stand in it as lone surrogates, see `undecodable`.

    Raises
    ------
    InputError
        If the file cannot be read, or is no text of that encoding, as far as its start shows.
    """
    if encoding is None:
        _require_utf8(source)
    else:
        _require_codec(encoding)
    try:
        with source.open(
            encoding=encoding or "utf-8", newline="", errors="surrogateescape"
        ) as handle:
            start = True
            for line in handle:
                if start:
                    line = line.lstrip("\ufeff")
                    start = not line
                yield line
    except OSError as error:
        raise unusable(source, error, "read") from None
    except UnicodeError:
        raise InputError(f"{source.name} is not {encoding or 'UTF-8'} text") from None


def undecodable(text: str, encoding: str | None) -> str:
    """Return what is wrong with bytes that could not be decoded, ``""`` if there are none."""
    if text.isascii() or (match := _UNDECODABLE.search(text)) is None:
        return ""
    byte = ord(match.group()) - 0xDC00
    return (
        f"is not {encoding or 'UTF-8'} text (byte 0x{byte:02x}): save the table as UTF-8, or name "
        "its encoding (--encoding cp1252, for example)"
    )


def _require_codec(encoding: str) -> None:
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):
        raise InputError(
            f"{encoding!r} is not a known encoding; for example utf-8, utf-16, cp1252, latin-1"
        )


def _require_utf8(source: Path) -> None:
    """Name another encoding, or another kind of file, by its first bytes."""
    try:
        with source.open("rb") as handle:
            start = handle.read(4096)
    except OSError as error:
        raise unusable(source, error, "read") from None
    for magic, kind in _OTHER_FILES:
        if start.startswith(magic):
            raise InputError(f"{source.name} is not a text file, but {kind}")
    name = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if name is None and len(start) > 7:
        # In text of two bytes a character, every other byte of plain letters is 0.
        zeros = "".join("0" if start[n::4].count(0) > len(start) // 16 else "." for n in range(4))
        kinds = {"0.0.": "utf-16-be", ".0.0": "utf-16-le", "000.": "utf-32-be", ".000": "utf-32-le"}
        name = kinds.get(zeros)
    if name is not None:
        raise InputError(
            f"{source.name} is not UTF-8 text, but seems to be {name.upper()}: save it as UTF-8, "
            f"or name its encoding (--encoding {name})"
        )
