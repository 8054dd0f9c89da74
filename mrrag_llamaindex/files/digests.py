"""What tells equal things from others: SHA-256 of text and of JSON values, the state of a file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def text_digest(text: str, digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(value: Any, digits: int = 64) -> str:
    r"""Return `text_digest` of a value as JSON with sorted keys, in ASCII.

    Examples
    --------
    >>> json_digest({"b": 1, "a": "é"}, 8) == text_digest('{"a": "\\u00e9", "b": 1}', 8)
    True
    """
    return text_digest(json.dumps(value, sort_keys=True), digits)


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Return what differs once a file was written or replaced, None without one; reads nothing.

    Returns
    -------
    tuple of int or None
        Inode, time of the last change in nanoseconds, size in bytes.
    """
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
