"""Reading a file of training records, made with ``mrrag mine``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.json_lines import header_of, known_fields, read_json_lines
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
