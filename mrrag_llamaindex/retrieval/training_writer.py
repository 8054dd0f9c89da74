"""Append training records to a file, going on where an earlier run was stopped."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock, FileLock, Timeout

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.training_records import (
    KIND,
    VERSION,
    TrainingHeader,
    TrainingRecord,
    json_line,
    read_bytes,
    read_lines,
    unusable,
)


class TrainingWriter:
    """Append records to a file, going on where an earlier run stopped.

    Parameters
    ----------
    path : path
        Made if absent, with the header.
    header : TrainingHeader
        Of this run; an existing file must have the same.

    Attributes
    ----------
    records : list of TrainingRecord
        Those in the file.

    Raises
    ------
    InputError
        If the file is something else, cannot be written, is being written by another process, or
        was begun with other towers, another model or other settings. It is left as it was then.
    """

    def __init__(self, path: str | os.PathLike[str], header: TrainingHeader) -> None:
        self.path = Path(path)
        self.records: list[TrainingRecord] = []
        self._lock = _locked(self.path)
        try:
            self._open(header)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> TrainingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, record: TrainingRecord) -> None:
        """Write one record; it is on the disk when this returns."""
        self._append(record.to_line())
        self.records.append(record)

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self._handle.close()
        self._lock.release()

    def _open(self, header: TrainingHeader) -> None:
        whole = 0
        # A kill may come between making the file and its first whole line.
        if self.path.exists() and self._begun():
            found, self.records, whole = read_lines(self.path)
            _check_same(found, header, self.path.name)
        try:
            self._handle = self.path.open("r+b" if self.path.exists() else "xb")
        except OSError as error:
            raise unusable(self.path, error, "written") from None
        self._handle.truncate(whole)
        self._handle.seek(whole)
        if not whole:
            self._append(header.to_line())

    def _append(self, line: str) -> None:
        self._handle.write(line.encode())
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def _begun(self) -> bool:
        """Whether there is a whole first line; a torn header of ours may be written again."""
        text = read_bytes(self.path)
        start = json_line({"mrrag": KIND, "version": VERSION})[:-2].encode()
        return b"\n" in text or not (text.startswith(start) or start.startswith(text))


def _check_same(found: TrainingHeader, header: TrainingHeader, name: str) -> None:
    if found == header:
        return
    one, two = asdict(found), asdict(header)
    pairs = [(key, one[key], two[key]) for key in two if key != "settings"]
    names = sorted({*one["settings"], *two["settings"]})
    pairs += [(key, one["settings"].get(key), two["settings"].get(key)) for key in names]
    key, was, now = next(pair for pair in pairs if pair[1] != pair[2])
    raise InputError(
        f"{name} was begun with {key} {was!r}, and this run has {now!r}: go on with the same, or "
        "write to another file"
    )


def _locked(path: Path) -> BaseFileLock:
    """Keep a second process from writing between our lines; the lock ends with the process."""
    lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"another process is writing to {path.name}: wait for it, or write to another file"
        ) from None
    except OSError as error:
        raise unusable(path, error, "written") from None
    return lock
