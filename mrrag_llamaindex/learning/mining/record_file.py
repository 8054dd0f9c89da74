"""Reading a file of training records, made with ``mrrag mine``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_lines import (
    check_same_header,
    header_of,
    header_start,
    known_fields,
    read_json_lines,
)
from mrrag_llamaindex.files.line_log import Closing, LineLog
from mrrag_llamaindex.learning.mining.records import (
    KIND,
    VERSION,
    TrainingHeader,
    TrainingRecord,
    TrainingSet,
)


def read_training_set(
    path: str | os.PathLike[str], *, towers_identity: str | None = None
) -> TrainingSet:
    """Read a file of training records; a torn last line, left by a kill, is not read.

    Parameters
    ----------
    path
        A file that `TrainingWriter` wrote.
    towers_identity
        The towers in use; a file of other towers is refused.

    Raises
    ------
    InputError
        If the file cannot be read, is no such file, or was made with other towers.
    """
    source = Path(path)
    header, records, _ = read_lines(source)
    if towers_identity not in (None, header.towers_identity):
        raise InputError(
            f"{source.name} was mined with towers {header.towers_identity!r}, but "
            f"{towers_identity!r} are in use: mine again with these, or load those"
        )
    return TrainingSet(header, tuple(records))


def read_lines(source: Path) -> tuple[TrainingHeader, list[TrainingRecord], int]:
    """Return header, records, and the length in bytes of the whole lines."""
    lines, whole = read_json_lines(source)
    what = "mined training questions; make it with mrrag mine"
    header: TrainingHeader = header_of(
        next(lines, None), TrainingHeader, KIND, VERSION, source.name, what
    )
    records = []
    for number, data in enumerate(lines, start=2):
        try:
            records.append(_record(data))
        except (TypeError, ValueError, KeyError, InputError) as error:
            raise InputError(
                f"{source.name}, line {number} is not a training record ({error})"
            ) from None
    return header, records, whole


def _record(data: Any) -> TrainingRecord:
    if not isinstance(data, dict):
        raise InputError("it is not an object")
    values = known_fields(data, TrainingRecord)
    rows = tuple(tuple(row) for row in values["terms"])
    lists = ("terms_text_image", "pair_ids", "confidence", "negatives")
    values.update({name: tuple(values[name]) for name in lists})
    halves = [name for name in ("query_image", "query_text") if values.get(name) is not None]
    values.update({name: tuple(values[name]) for name in halves})
    return TrainingRecord(**{**values, "terms": cast(Any, rows)})


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
