"""Training questions with their gold answers, from a table of any kind that pairs are read from.

Read as pair tables are: what concerns the whole table raises, what concerns one row gives a
`Skipped` in its place, and nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.tables.table import Table
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.ingest.pair_table import read_rows
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

    def portable(self) -> GoldQuestion:
        """Return it for a process in another folder: an image in a file by its whole path."""
        if not isinstance(self.image, (str, os.PathLike)):
            return self
        return replace(self, image=str(Path(self.image).absolute()))


def read_questions(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[GoldQuestion | Skipped]:
    """Yield the table's rows as questions, in order, one item for each data row.

    Parameters
    ----------
    path, columns, images, encoding, delimiter
        As for `read_pairs`, with the roles above.

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
    table = Table.open(
        path, REQUIRED, OPTIONAL, columns, images, encoding=encoding, delimiter=delimiter
    )
    return _distinct(read_rows(table, "question_id", lambda row: [_question(table, row)]))


def digest_of(questions: Iterable[GoldQuestion]) -> str:
    """Return 16 hex digits that change with any id, question, answer or patient."""
    digest = hashlib.sha256()
    for item in questions:
        own = (item.patient_id, item.study_id, item.pair_id)
        digest.update(json.dumps([item.question_id, item.question, item.answer, *own]).encode())
    return digest.hexdigest()[:16]


def _distinct(rows: Iterable[GoldQuestion | Skipped]) -> Iterator[GoldQuestion | Skipped]:
    first: dict[str, int] = {}
    for number, item in enumerate(rows, start=1):
        if isinstance(item, GoldQuestion):
            earlier = first.setdefault(item.question_id, number)
            if earlier != number:
                reason = f"row {earlier} has the same question_id"
                item = Skipped(number, item.question_id, reason)
        yield item


def _question(table: Table, row: Mapping[str, Any]) -> GoldQuestion:
    return GoldQuestion(
        question_id=table.identifier(row, "question_id") or "",
        image=table.path(row, "image") or "",
        question=(table.text(row, "question") or "").strip(),
        answer=(table.text(row, "answer") or "").strip(),
        **{role: table.identifier(row, role) for role in OPTIONAL},
    )
