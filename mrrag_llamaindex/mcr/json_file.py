"""JSON objects in files, as what was learned is kept: read, or refused with the reason."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypeIs

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_files import parse_json


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Return the text of a file; raise `InputError` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = type(error).__name__
        raise InputError(f"{what}: cannot read {Path(path).name!r} ({reason})") from None


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object that `text` is; raise `InputError` if it is none."""
    try:
        data = parse_json(text, unambiguous=True)
    except ValueError as error:
        raise InputError(f"{what}: the file cannot be used: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a JSON object")
    return data


def check_keys(
    data: dict[str, Any], what: str, format_: str, required: Set[str], optional: Set[str]
) -> None:
    """Raise `InputError` if an object states another format, lacks a key or has an unknown one."""
    stated = data.get("format", format_)
    if stated != format_:
        raise InputError(f"{what}: format {stated!r} where {format_!r} is expected")
    missing, unknown = sorted(required - data.keys()), sorted(data.keys() - required - optional)
    if missing or unknown:
        raise InputError(f"{what}: missing {missing}, unknown {unknown}")


def is_number(value: object) -> TypeIs[float]:
    """Tell whether a value is a number; a truth is none."""
    return not isinstance(value, bool) and isinstance(value, (int, float, np.number))
