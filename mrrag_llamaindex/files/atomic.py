"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a file beside ``path``, bring it to the disk and rename it.

    Parameters
    ----------
    path : Path
    write : callable
        Takes the path to write to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, see `write_atomically`."""
    from safetensors.torch import save_file

    write_atomically(path, lambda beside: save_file(tensors, beside, metadata))


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
