"""Answers on disk: one JSON object per question, so that a run resumes and can be re-scored.

The first line is the header: what every answer depends on. A batch of answers is on the disk
before the next one is asked for, so a killed run leaves at most a torn last line, which is cut
off when writing goes on. The file holds what the model wrote, and no question, report or path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import KIND, VERSION, Prediction, PredictionHeader
from mrrag_llamaindex.files.json_lines import (
    check_same_header,
    header_of,
    header_start,
    known_fields,
    read_bytes,
    read_json_lines,
)
from mrrag_llamaindex.files.line_log import Closing, LineLog


def read_predictions(
    path: str | os.PathLike[str],
) -> tuple[PredictionHeader, list[Prediction]]:
    """Read a file of predictions; a torn last line is left out.

    Raises
    ------
    InputError
        If the file cannot be read, is something else, or answers a question twice.
    """
    header, found, _ = _read_lines(Path(path))
    return header, found


def is_answers_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins with a header of ours."""
    return read_bytes(Path(path)).startswith(header_start(KIND))


class PredictionWriter(Closing):
    """Append answers to a file, going on where an earlier run stopped.

    Parameters
    ----------
    path : path
        Made if absent, with the header.
    header : PredictionHeader
        Of this run; an existing file must have the same.

    Attributes
    ----------
    predictions : list of Prediction
        Those in the file.
    answered : set of str
        Ids of their questions.

    Raises
    ------
    InputError
        If the file is something else, cannot be written, is being written by another process, or
        was begun with other data, another model or other settings. It is left as it was then.
    """

    def __init__(self, path: str | os.PathLike[str], header: PredictionHeader) -> None:
        self.path = Path(path)
        self.header = header
        self.predictions: list[Prediction] = []
        self.answered: set[str] = set()
        self._log = LineLog(
            self.path,
            header.to_line(),
            header_start(KIND, VERSION),
            self._resume,
            instead="write elsewhere",
        )

    def append(self, predictions: Iterable[Prediction]) -> None:
        """Write a batch of answers; it is on the disk when this returns.

        Raises
        ------
        InputError
            If one is of another method, or of a question already answered; none is written then.
        """
        batch = list(predictions)
        ids = {item.question_id for item in batch}
        other = next((item.method for item in batch if item.method != self.header.method), None)
        if other is not None:
            raise InputError(f"{self.path.name} is of {self.header.method!r}, not of {other!r}")
        if len(ids) < len(batch) or ids & self.answered:
            raise InputError(f"{self.path.name}: a question was answered twice")
        self._log.append("".join(item.to_line() for item in batch))
        self.predictions += batch
        self.answered |= ids

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self._log.close()

    def _resume(self) -> int:
        found, self.predictions, whole = _read_lines(self.path)
        check_same_header(found, self.header, self.path.name)
        self.answered = {item.question_id for item in self.predictions}
        return whole


def _read_lines(source: Path) -> tuple[PredictionHeader, list[Prediction], int]:
    """Return header, answers, and the length in bytes of the whole lines."""
    lines, whole = read_json_lines(source)
    if not whole:
        raise InputError(f"{source.name} holds no predictions; it has no whole line")
    header: PredictionHeader = header_of(
        next(lines), PredictionHeader, KIND, VERSION, source.name, "predictions of mrrag eval"
    )
    found: dict[str, Prediction] = {}
    for number, data in enumerate(lines, start=2):
        item = _prediction(data, header, source.name, number)
        if item.question_id in found:
            raise InputError(f"{source.name}, line {number} answers a question a second time")
        found[item.question_id] = item
    return header, list(found.values()), whole


def _prediction(data: Any, header: PredictionHeader, name: str, number: int) -> Prediction:
    try:
        values = known_fields(data, Prediction)
        values["documents"] = tuple(values.get("documents", ()))
        return Prediction(**{**values, "method": header.method})
    except (AttributeError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{name}, line {number} is not a prediction ({error})") from None
