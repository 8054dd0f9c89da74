"""Append training records to a file, going on where an earlier run was stopped."""

from __future__ import annotations

import os
from pathlib import Path

from mrrag_llamaindex.files.closing import Closing
from mrrag_llamaindex.files.json_lines import check_same_header, header_start
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.record_file import read_lines
from mrrag_llamaindex.learning.mining.records import (
    KIND,
    VERSION,
    TrainingHeader,
    TrainingRecord,
)


class TrainingWriter(Closing):
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
        self._header = header
        self._log = LineLog(self.path, header.to_line(), header_start(KIND, VERSION), self._resume)

    def append(self, record: TrainingRecord) -> None:
        """Write one record; it is on the disk when this returns."""
        self._log.append(record.to_line())
        self.records.append(record)

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self._log.close()

    def _resume(self) -> int:
        found, self.records, whole = read_lines(self.path)
        check_same_header(found, self._header, self.path.name)
        return whole
