"""A file of lines that one process at a time appends to, and that survives a kill at any moment."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_lines import read_bytes, unusable


class LineLog:
    """Append whole lines to a file, going on where an earlier run was stopped.

    What `append` has returned from is on the disk, so a killed run leaves at most a torn last
    line. It is cut off when the file is opened again; a torn header is written anew.

    Parameters
    ----------
    path : Path
        Made if absent, folders included, with the header.
    header : str
        The first line, with its end.
    start : bytes
        What the header of any run begins with (`json_lines.header_start`): a file without a whole
        line is taken for a torn header, and written over, only if it begins like this.
    resume : callable
        Reads a file that has a whole line or is something else. Returns the length in bytes of
        the whole lines; raises if the file may not be gone on with, and it is left as it was then.
    instead : str
        What to do if another process is writing and one would not wait for it.

    Raises
    ------
    InputError
        If the file cannot be read or written, or is being written by another process; whatever
        `resume` raises. The lock is free again then.
    """

    def __init__(
        self,
        path: Path,
        header: str,
        start: bytes,
        resume: Callable[[], int],
        *,
        instead: str = "write to another file",
    ) -> None:
        self.path = path
        self._lock = _locked(path, instead)
        try:
            # A kill may come between making the file and its first whole line.
            begun = path.exists() and not _torn_header(path, start)
            self._open(resume() if begun else 0, header)
        except BaseException:
            self._lock.release()
            raise

    def append(self, lines: str) -> None:
        """Write one line or several, each with its end; they are on the disk when this returns."""
        self._handle.write(lines.encode())
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self._handle.close()
        self._lock.release()

    def _open(self, whole: int, header: str) -> None:
        try:
            self._handle = self.path.open("r+b" if self.path.exists() else "xb")
            self._handle.truncate(whole)
            self._handle.seek(whole)
        except OSError as error:
            raise unusable(self.path, error, "written") from None
        if not whole:
            self.append(header)


def _torn_header(path: Path, start: bytes) -> bool:
    """Whether all there is is the beginning of a header of ours."""
    content = read_bytes(path)
    return b"\n" not in content and (content.startswith(start) or start.startswith(content))


def _locked(path: Path, instead: str) -> BaseFileLock:
    """Keep a second process from writing between our lines.

    The lock ends with the process: a kill does not leave it behind.
    """
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another process is writing to {path.name}: wait for it, or {instead}"
        ) from None
    except OSError as error:
        raise unusable(path, error, "written") from None
    return lock


class Closing(ABC):
    """A context manager that is itself, and closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
