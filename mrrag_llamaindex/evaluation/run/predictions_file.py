"""Answers of any other model, from a table: its row then stands in the same table as ours.

Med-Flamingo, MiniGPT-Med and others need code and weights of their own. What they wrote is enough
to be scored on the same questions, under the same rule.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import UNKNOWN_ID, EvaluationSet, Problem, row_name
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.run.answers_file import is_answers_file, read_predictions
from mrrag_llamaindex.files.rows import identifier
from mrrag_llamaindex.files.tables.delimited import csv_rows
from mrrag_llamaindex.files.tables.json_rows import jsonl_rows

ROLES = ("question_id", "text")
"""What a table must have: the question's id, and what the model answered."""


def read_predictions_file(
    path: str | os.PathLike[str],
    data: EvaluationSet,
    method: str,
    columns: Mapping[str, str] | None = None,
) -> tuple[list[Prediction], tuple[Problem, ...]]:
    """Read a model's answers to the questions of a data set.

    Parameters
    ----------
    path
        ``.csv`` (comma separated, with a header) or ``.jsonl``, in UTF-8; also a file below
        ``predictions/`` of another run of ``mrrag eval``. Further columns, gold labels included,
        are not looked at: those of the data set count.
    data
        Gold labels and patients come from here.
    method
        Name of the row.
    columns
        Role to column name, e.g. ``{"text": "model_answer"}``.

    Returns
    -------
    predictions : list of Prediction
        One for each question of the data set, in its order. An empty answer is an answer; under
        ``leading`` it is invalid.
    problems : tuple of Problem
        Answers to what the data set does not ask (its own problems among them): left out, listed.

    Raises
    ------
    InputError
        If the file cannot be read, a row is not whole, a question of the data set has no answer,
        or a question has two: which one counts is not ours to choose.
    """
    source = Path(path)
    named = dict(columns or {})
    unknown = sorted(set(named) - set(ROLES))
    if unknown:
        raise InputError(f"columns can be named for {', '.join(ROLES)}; not for {unknown[0]!r}")
    roles = {role: named.get(role, role) for role in ROLES}
    known_ids = {question.question_id for question in data.questions}
    texts: dict[str, str] = {}
    strangers: dict[str, Problem] = {}
    for number, row in enumerate(_rows(source), start=1):
        name, text = _answer(row, roles, f"{source.name}, row {number}")
        if name in texts or name in strangers:
            raise InputError(f"{source.name}, row {number} answers {name!r} a second time")
        if name in known_ids:
            texts[name] = text
        else:
            where = row_name(source.name, number, name)
            strangers[name] = Problem(UNKNOWN_ID, where, f"{data.name} does not ask this question")
    missing = [item.question_id for item in data.questions if item.question_id not in texts]
    if missing:
        raise InputError(
            f"{source.name} has no answer to {len(missing)} of the {len(known_ids)} questions of "
            f"{data.name}, e.g. {missing[0]!r}: every model must answer all; write an empty "
            "text where it gave none"
        )
    predictions = [
        Prediction(
            method,
            item.question_id,
            item.patient_id,
            data.labels[item.question_id],
            texts[item.question_id],
            task=data.task,
        )
        for item in data.questions
    ]
    return predictions, tuple(strangers.values())


def _rows(source: Path) -> Iterator[Any]:
    kind = source.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise InputError(f"{source.name}: predictions are read from .csv or .jsonl files")
    if kind == ".jsonl" and is_answers_file(source):
        own = read_predictions(source)[1]
        return iter([{"question_id": item.question_id, "text": item.text} for item in own])
    rows = csv_rows(source) if kind == ".csv" else jsonl_rows(source)
    if next(rows, None) is None:
        raise InputError(f"{source.name} is empty")
    return rows


def _answer(row: Any, roles: Mapping[str, str], where: str) -> tuple[str, str]:
    if isinstance(row, str):
        raise InputError(f"{where} {row}")
    for role, name in roles.items():
        if name not in row:
            raise InputError(
                f"{where} has no field {name!r} (for the {role}); it has: "
                f"{', '.join(map(str, row))}. Name the right one, e.g. {role}=COLUMN"
            )
    name, text = row[roles["question_id"]], row[roles["text"]]
    try:
        question_id = identifier(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if question_id is None:
        raise InputError(f"{where} has no {roles['question_id']}")
    if not isinstance(text, str):
        raise InputError(f"{where}: the answer is a {type(text).__name__}, not text")
    return question_id, text
