"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: str | Callable[[Path], Any]) -> None:
    """Write a file beside ``path``, bring it to the disk and rename it.

    Parameters
    ----------
    path : path
        What was there before is left as it was if writing fails.
    content : str or callable
        Text, written as UTF-8; or what writes the file to the path that it is given.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            content(part)
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
