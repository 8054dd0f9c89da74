"""The JSON objects that fusion weights are kept in: read, whose towers, written whole or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file of weights.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"fusion weights: cannot read {Path(path).name!r} ({type(error).__name__})"
        ) from None


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"fusion weights: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError("fusion weights: expected a JSON object")
    return data


def check_towers(data: dict[str, Any], towers_identity: str | None) -> None:
    """Refuse weights that record other towers; those that record none are taken.

    Raises
    ------
    InputError
        If they were learned on other towers.
    """
    learned_on = data.get("towers_identity")
    if None not in (towers_identity, learned_on) and learned_on != towers_identity:
        raise InputError(
            f"fusion weights were learned on towers {learned_on!r}, but {towers_identity!r} "
            "are in use: train the fusion again on these towers, or load those"
        )


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write a file beside `path`, bring it to the disk and rename it.

    Raises
    ------
    OSError
        If it cannot be written; what was there before is left as it was.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
