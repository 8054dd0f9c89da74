"""Rows of JSON: one object per line, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_files import doubled_name
from mrrag_llamaindex.files.tables.text import lines_of, undecodable

_MOST_DIGITS = 1000
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},"]', re.DOTALL)


def jsonl_rows(source: Path, encoding: str | None = None) -> Iterator[Any]:
    """Yield the (unknown) header, then each row as a dict, or as the reason why it is none.

    Blank lines are no rows. A file that is an array of objects is read as one.
    """
    lines = lines_of(source, encoding)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return
    rows: Iterator[str] = chain([first], lines)
    if first.lstrip().startswith("["):
        text = "".join(rows)
        rows = (
            elements if (elements := _elements(text)) is not None else iter(text.splitlines(True))
        )
    yield from _rows(source, rows, encoding)


def json_rows(source: Path, encoding: str | None = None) -> Iterator[Any]:
    """Yield the (unknown) header, then each object of an array as a dict, or why it is none.

    Raises
    ------
    InputError
        If the file is no array of objects. One object per line is read as well.
    """
    text = "".join(lines_of(source, encoding)).strip()
    if not text:
        return
    rows = _elements(text)
    if rows is None:
        if text.startswith("["):
            raise InputError(f"{source.name} is not a complete JSON array: was it cut off?")
        lines = text.splitlines(True)
        if not isinstance(_parsed(lines[0]), dict):
            raise InputError(
                f"{source.name} is not a JSON array of objects, one for each row: save it as such "
                "(pandas: orient='records'), or one object per line as .jsonl"
            )
        rows = iter(lines)
    yield from _rows(source, rows, encoding)


def _rows(source: Path, texts: Iterator[str], encoding: str | None) -> Iterator[Any]:
    yield []
    good, bad_text = 0, ""
    for text in texts:
        if not text.strip():
            continue
        if reason := undecodable(text, encoding):
            bad_text = bad_text or reason
            yield reason
            continue
        row = _parsed(text)
        good += isinstance(row, dict)
        yield row
    if bad_text and not good:
        raise InputError(f"{source.name} {bad_text}")


def _parsed(text: str) -> dict[str, Any] | str:
    """Return the object that a text holds, or why it holds none."""
    try:
        row = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except _UnusableError as error:
        return str(error)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at character {error.colno}" if hasattr(error, "colno") else ""
        return f"is not valid JSON{where}"
    return row if isinstance(row, dict) else f"is a JSON {type(row).__name__}, not an object"


class _UnusableError(Exception):
    """JSON that says what no table can hold."""


def _integer(digits: str) -> int:
    # Python refuses to turn more than some thousand digits into a number, or back.
    if len(digits) > _MOST_DIGITS:
        raise _UnusableError(f"holds an integer of {len(digits):,} digits: write it as text")
    return int(digits)


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := doubled_name(fields)) is not None:
        raise _UnusableError(f"has two fields named {twice!r}")
    return dict(fields)


def _elements(text: str) -> Iterator[str] | None:
    """Cut the text of an array into those of its elements, by brackets and quotes alone.

    So an element that is not valid leaves the others whole. None if the text is no array that
    ends where the text does.
    """
    text = text.strip()
    if not text.startswith("["):
        return None
    cuts, depth, end = [1], 0, -1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
            if depth == 0:
                end = match.end()
                break
        elif token == "," and depth == 1:
            cuts.append(match.end())
        elif token == '"':
            return None
    if end != len(text):
        return None
    stops = [*(cut - 1 for cut in cuts[1:]), end - 1]
    return (text[start:stop] for start, stop in zip(cuts, stops, strict=True))
