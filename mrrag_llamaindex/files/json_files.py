"""JSON from elsewhere, read once before anybody else reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 200_000_000
"""The largest tokenizers have 35 MB."""

MOST_LEVELS: Final = 100

_MOST_DIGITS = 18


def read_json(path: Path, *, unambiguous: bool = False) -> Any:
    """Return what a JSON file holds.

    Parameters
    ----------
    path : Path
    unambiguous : bool
        As in `parse_json`.

    Raises
    ------
    ValueError
        In a few words: not UTF-8, too large, or refused by `parse_json`.
    OSError
        If it cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 1_000_000} MB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    return parse_json(text, unambiguous=unambiguous)


def parse_json(text: str, *, unambiguous: bool = False) -> Any:
    """Return what a JSON text holds.

    Parameters
    ----------
    text : str
    unambiguous : bool
        Also refuse what programs read in different ways: two values of one name, and as values of
        an object numbers that are not finite, or whole ones of more than 18 digits.

    Raises
    ------
    ValueError
        In a few words: not JSON, or nested too deeply for what reads it after this.

    Examples
    --------
    >>> parse_json('{"a": 1, "a": 2}', unambiguous=True)
    Traceback (most recent call last):
    ValueError: it names 'a' twice
    """
    load = json.loads
    if unambiguous:
        load = partial(
            json.loads,
            object_pairs_hook=_distinct,
            parse_int=_integer,
        )
    try:
        value = load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("it is not valid JSON") from None
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


class _RefusedError(Exception):
    """JSON, but not of one meaning."""


def doubled_name(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """Return the first name that stands twice in an object; None if none does."""
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        return None
    return next(name for name in names if names.count(name) > 1)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if (twice := doubled_name(pairs)) is not None:
        raise _RefusedError(f"it names {twice[:80]!r} twice")
    for name, item in pairs:
        if not _finite(item):
            raise _RefusedError(f"{name[:80]!r} holds a number that is not finite")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS + 1:
        raise _RefusedError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def check_json_files(folder: Path) -> None:
    """Read every JSON file of a folder.

    Raises
    ------
    ValueError
        Naming the first that is not as it should be.
    OSError
        If one cannot be read.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".index.json"):
            continue  # checked with the weights, where all faults are listed
        try:
            read_json(path)
        except ValueError as error:
            raise ValueError(f"{path.name} cannot be used: {error}") from None
