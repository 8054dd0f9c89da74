"""A file of lines that one process at a time appends to, and that survives a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic

from filelock import BaseFileLock, FileLock, Timeout
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import PRIVATE
from mrrag_llamaindex.files.line_format import (
    Header,
    LineFormat,
    PathLike,
    Record,
    check_same_header,
)
from mrrag_llamaindex.files.rows import read_bytes, unusable


class LineLog(Generic[Header, Record]):
    """A file that records are appended to, going on where an earlier run was stopped.

    Parameters
    ----------
    path : path
        Made if absent, folders included, with the header.
    form : LineFormat
    header : dataclass
        Of this run; an existing file that holds records must have the same. One that is torn, or
        that no record follows, is written anew: nothing rests on it.
    instead : str
        What to do if another process is writing and one would not wait for it.
    wait : float
        Seconds to wait for a process that is writing.
    keep : bool
        False: records are not kept in memory, and are read with `LineFormat.stream`.

    Attributes
    ----------
    records : list
        Those in the file, if they are kept.
    keys : set
        Their values in `LineFormat.key`.

    Raises
    ------
    InputError
        If the file is something else, cannot be read or written, is being written by another
        process, or was begun with another header. It is left as it was then, and not locked.
    """

    def __init__(
        self,
        path: PathLike,
        form: LineFormat[Header, Record],
        header: Header,
        *,
        instead: str = "write to another file",
        wait: float = 0.0,
        keep: bool = True,
    ) -> None:
        self.path = Path(path)
        self.form = form
        self.header = header
        self.records: list[Record] = []
        self.keys: set[Any] = set()
        self._keep = keep
        self._lock = _locked(self.path, instead, wait)
        try:
            # A kill may come between making the file and its first whole line.
            begun = self.path.exists() and not self._header_is_torn()
            self._open(self._resume() if begun else 0)
        except BaseException:
            self._lock.release()
            raise

    def append(self, records: Sequence[Record]) -> None:
        """Write records; they are on the disk when this returns.

        Raises
        ------
        InputError
            If one does not share what the header says of all, or has the key of another; none is
            written then.
        """
        for name in self.form.shared:
            own = getattr(self.header, name)
            others = [value for record in records if (value := getattr(record, name)) != own]
            if others:
                raise InputError(f"{self.path.name} is of {own!r}, not of {others[0]!r}")
        keys = {getattr(record, self.form.key) for record in records} if self.form.key else set()
        if self.form.key and (len(keys) < len(records) or keys & self.keys):
            raise InputError(f"{self.path.name}: a {self.form.key} would be written twice")
        self._write("".join(map(self.form.line, records)))
        if self._keep:
            self.records += records
        self.keys |= keys

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self._handle.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resume(self) -> int:
        whole = 0
        for earlier, record, end in self.form.scan(self.path):
            if record is None:
                continue
            if not whole:
                check_same_header(earlier, self.header, self.path.name)
            if self._keep:
                self.records.append(record)
            if self.form.key:
                self.keys.add(getattr(record, self.form.key))
            whole = end
        return whole

    def _header_is_torn(self) -> bool:
        """Whether all there is is the beginning of a header of this form."""
        content, start = read_bytes(self.path), self.form.start()
        return b"\n" not in content and (content.startswith(start) or start.startswith(content))

    def _open(self, whole: int) -> None:
        try:
            if not self.path.exists():
                self.path.touch(PRIVATE, exist_ok=False)
            self._handle = self.path.open("r+b")
            self._handle.truncate(whole)
            self._handle.seek(whole)
        except OSError as error:
            raise unusable(self.path, error, "written") from None
        if not whole:
            self._write(self.form.header_line(self.header))

    def _write(self, lines: str) -> None:
        self._handle.write(lines.encode())
        self._handle.flush()
        os.fsync(self._handle.fileno())


def _locked(path: Path, instead: str, wait: float) -> BaseFileLock:
    """Keep a second process from writing between our lines.

    The lock ends with the process: a kill does not leave it behind.
    """
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=wait)
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
