"""Training questions with their gold answers, from a table: csv, or one JSON object per line.

Read as pair tables are: what concerns the whole table raises, what concerns one row gives a
`Skipped` in its place, and nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.rows import csv_rows, identifier, jsonl_rows
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.pair import Skipped, check_encodable, check_identifier

if TYPE_CHECKING:
    from mrrag_llamaindex.images.load import ImageSource

REQUIRED = ("question_id", "image", "question", "answer")
"""Roles that every table must fill."""

OPTIONAL = ("patient_id", "study_id", "pair_id")
"""Roles that say which pairs are the question's own; every row must fill at least one."""


@dataclass(frozen=True)
class GoldQuestion:
    """A question about an image, with its gold answer.

    Parameters
    ----------
    question_id : str
    image : path, bytes or PIL.Image.Image
    question, answer : str
    patient_id, study_id, pair_id : str or None
        Whom and what the image shows: pairs of the same patient, of the same study and this very
        pair are never candidates. At least one must be known.

    Raises
    ------
    InputError
        If an identifier, the question or the answer is empty, or if none of the three is known.
        The message never contains the question, the answer or the image's path.
    """

    question_id: str
    image: ImageSource
    question: str
    answer: str
    patient_id: str | None = None
    study_id: str | None = None
    pair_id: str | None = None

    def __post_init__(self) -> None:
        check_identifier(self.question_id, "question_id")
        name = f"question {self.question_id!r}"
        for role in OPTIONAL:
            value = getattr(self, role)
            if value is not None:
                check_identifier(value, f"{role} of {name}")
        for role in ("question", "answer"):
            text = getattr(self, role)
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{name}: the {role} is empty")
            check_encodable(text, f"{name}: the {role}")
        if self.image is None or (isinstance(self.image, str) and not self.image.strip()):
            raise InputError(f"{name} has no image")
        if not any(getattr(self, role) for role in OPTIONAL):
            raise InputError(
                f"{name} names neither patient_id, study_id nor pair_id, so its own pair could "
                "be its evidence; add one of them"
            )

    def exclusion(self) -> Exclusion:
        """Return what may not be a candidate: own pair, same study, same patient."""
        own = (self.pair_id, self.patient_id, self.study_id)
        pairs, patients, studies = (frozenset() if v is None else frozenset({v}) for v in own)
        return Exclusion(pairs, patients, studies)


def read_questions(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Iterator[GoldQuestion | Skipped]:
    """Yield the table's rows as questions, in order, one item for each data row.

    Parameters
    ----------
    path
        A ``.csv`` (comma separated, with a header) or ``.jsonl`` file, in UTF-8.
    columns
        Role to column name, for roles whose column has another name.
    images
        Folder against which relative image paths are resolved; by default the table's own.

    Yields
    ------
    GoldQuestion or Skipped
        `Skipped` for a row that cannot be one, with its 1-based number and the reason; its
        ``pair_id`` then holds the question's id.

    Raises
    ------
    InputError
        If the file cannot be read, is not such a table, or lacks a column.
    """
    source = Path(path)
    named = dict(columns or {})
    unknown = sorted(set(named) - set(REQUIRED) - set(OPTIONAL))
    if unknown:
        raise InputError(
            f"columns can be named for {', '.join(REQUIRED + OPTIONAL)}; not for {unknown[0]!r}"
        )
    roles = {role: named.get(role, role) for role in REQUIRED + OPTIONAL}
    kind = source.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise InputError(f"{source.name}: questions are read from .csv or .jsonl files")
    rows = csv_rows(source) if kind == ".csv" else jsonl_rows(source)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{source.name} is empty")
    required = [role for role in REQUIRED + OPTIONAL if role in REQUIRED or role in named]
    if kind == ".csv":
        _check_header(header, {role: roles[role] for role in required}, source.name)
    folder = Path(images) if images is not None else source.parent
    return _questions(rows, roles, required, folder)


def digest_of(questions: Iterable[GoldQuestion]) -> str:
    """Return 16 hex digits that change with any id, question, answer or patient."""
    digest = hashlib.sha256()
    for item in questions:
        own = (item.patient_id, item.study_id, item.pair_id)
        digest.update(json.dumps([item.question_id, item.question, item.answer, *own]).encode())
    return digest.hexdigest()[:16]


def _questions(
    rows: Iterator[Any], roles: Mapping[str, str], required: list[str], folder: Path
) -> Iterator[GoldQuestion | Skipped]:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield Skipped(number, None, row)
            continue
        try:
            item = _question(row, roles, required, folder)
            first = seen.setdefault(item.question_id, number)
            if first != number:
                raise InputError(f"row {first} has the same question_id")
            yield item
        except InputError as error:
            identifier = row.get(roles["question_id"])
            yield Skipped(number, None if identifier in (None, "") else str(identifier), str(error))


def _question(
    row: Mapping[str, Any], roles: Mapping[str, str], required: list[str], folder: Path
) -> GoldQuestion:
    for role in required:
        if roles[role] not in row:
            raise InputError(f"has no field {roles[role]!r}; it has: {', '.join(map(str, row))}")
    texts = {}
    for role in ("image", "question", "answer"):
        value = row[roles[role]]
        if value is not None and not isinstance(value, str):
            raise InputError(f"the {role} is a {type(value).__name__}, not text")
        texts[role] = (value or "").strip()
    return GoldQuestion(
        question_id=identifier(row[roles["question_id"]]) or "",
        image=str(folder / texts["image"]) if texts["image"] else "",
        question=texts["question"],
        answer=texts["answer"],
        **{role: identifier(row.get(roles[role])) for role in OPTIONAL},
    )


def _check_header(header: list[str], required: Mapping[str, str], file: str) -> None:
    for role, name in required.items():
        if name not in header:
            raise InputError(
                f"{file} has no column {name!r} (for the {role}); it has: {', '.join(header)}. "
                f"Name the right one, e.g. {role}=COLUMN"
            )
