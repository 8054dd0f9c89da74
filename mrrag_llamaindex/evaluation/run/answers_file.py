"""Answers on disk: one JSON object per question, so that a run resumes and can be re-scored.

The first line is the header: what every answer depends on. A batch of answers is on the disk
before the next one is asked for, so a killed run leaves at most a torn last line, which is cut
off when writing goes on. The file holds what the model wrote, and no question, report or path; of
the reports that are to be written it holds the model's, and not the reference.
"""

from __future__ import annotations

from pathlib import Path

from mrrag_llamaindex.evaluation.data.prediction import Prediction, PredictionHeader
from mrrag_llamaindex.files.line_format import LineFormat, PathLike
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.files.rows import read_bytes

ANSWERS_FILE = LineFormat(
    "predictions",
    1,
    PredictionHeader,
    Prediction,
    "predictions of mrrag eval",
    "a prediction",
    shared=("method", "task"),
    key="question_id",
)


def read_predictions(path: PathLike) -> tuple[PredictionHeader, list[Prediction]]:
    """Read a file of predictions; see `LineFormat.read`."""
    return ANSWERS_FILE.read(path)


def is_answers_file(path: PathLike) -> bool:
    """Whether a file begins with a header of ours."""
    return read_bytes(Path(path)).startswith(ANSWERS_FILE.start(version=False))


class PredictionWriter(LineLog[PredictionHeader, Prediction]):
    """A `LineLog` of answers; ``keys`` are the ids of the questions that are answered."""

    def __init__(self, path: PathLike, header: PredictionHeader, *, keep: bool = True) -> None:
        super().__init__(path, ANSWERS_FILE, header, instead="write elsewhere", keep=keep)
