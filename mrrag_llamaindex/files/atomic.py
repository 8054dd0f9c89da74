"""Files that are there whole or not at all, whenever the process ends and whoever else writes."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PRIVATE: Final = 0o600
"""Mode of files that hold what belongs to patients."""

_writing: set[Path] = set()
"""Parts that threads of this process are writing now."""


def write_atomically(
    path: str | os.PathLike[str], content: str | Callable[[Path], Any], *, private: bool = False
) -> None:
    """Write a file beside ``path``, bring it to the disk and rename it.

    Several threads and processes may write one path: the last to finish stays, whole. What a
    killed process of this machine has left beside the path is removed first.

    Parameters
    ----------
    path : path
        What was there before is left as it was if writing fails.
    content : str or callable
        Text, written as UTF-8 with its line ends as they are; or what writes the file to the path
        that it is given.
    private : bool
        Make it readable for this user alone, because it holds what belongs to patients.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    target = Path(path).absolute()
    _sweep(target)
    token = secrets.token_hex(4)
    part = target.with_name(f"{_opening(target)}{os.getpid()}-{token}.part")
    _writing.add(part)
    try:
        if private:
            part.touch(PRIVATE, exist_ok=False)
        if isinstance(content, str):
            part.write_text(content, encoding="utf-8", newline="")
        else:
            content(part)
        if private:
            part.chmod(PRIVATE)  # whatever wrote it may have replaced it
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
        _writing.discard(part)
    _synchronise(target.parent)


def _opening(target: Path) -> str:
    """Return what the names of a path's parts begin with on this machine."""
    # A process number says nothing about the processes of another machine on a shared disk.
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".{target.name}.{machine}-"


def _sweep(target: Path) -> None:
    """Remove the parts of a path whose processes have ended."""
    if not target.parent.is_dir():
        return
    opening = _opening(target)
    for name in os.listdir(target.parent):  # noqa: PTH208 (a string each: there may be thousands)
        if not name.startswith(opening):
            continue
        match = re.fullmatch(r"(\d+)-[0-9a-f]{8}\.part", name[len(opening) :])
        path = target.with_name(name)
        if match and path not in _writing and not _runs(int(match[1])):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process other than this one runs; in doubt, it does."""
    if process == os.getpid():
        return False  # an earlier one of the same number, as in a container: see `_writing`
    if os.name == "nt":  # where `os.kill` would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _synchronise(folder: Path) -> None:
    """Bring a folder's names to the disk, which the files' own synchronisation does not."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
