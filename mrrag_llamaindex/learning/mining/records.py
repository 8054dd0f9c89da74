"""D_train: for each training question its candidates, and which of them helped.

On disk it is one JSON object per line. The first line is the header: what the rest depends on.
Every further line is one question. A `LineLog` in `TRAINING_FILE` writes such a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.line_format import LineFormat, PathLike
from mrrag_llamaindex.store.hits import Hit

DIGITS: Final = 6
"""Decimals that are kept: what differs by less is rounding of the device, and counts as equal."""


@dataclass(frozen=True)
class TrainingHeader:
    """What every record of a file depends on.

    Parameters
    ----------
    towers_identity : str
        Towers whose similarities the records hold.
    model : str
        The generator that was asked.
    seed : int
    negatives : int
        m, the most negatives of one question.
    settings : dict
        Whatever else decides the records (weights, number of candidates, questions, store);
        plain JSON values.

    Raises
    ------
    ValueError
        If `negatives` is not positive.
    """

    towers_identity: str
    model: str
    seed: int
    negatives: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ValueError(f"negatives is {self.negatives}; it must be at least 1")


@dataclass(frozen=True)
class TrainingRecord:
    """One training question: n candidates, best-ranked first, and their labels.

    Parameters
    ----------
    question_id : str
    patient_id : str or None
    terms : tuple of (float, float, float)
        n rows <q_i, d_t>, <q_i, d_i>, <q_t, d_t>, in the order of `weights.TERMS`.
    terms_text_image : tuple of float
        n values <q_t, d_i>, the fourth similarity.
    terms_raw : tuple of (float, float), or None
        n rows of the fifth and sixth, by the encoders' own features; None where towers have none.
    pair_ids : tuple of str
    confidence : tuple of float
        n values: how confidently the generator gives the gold answer with that document alone,
        a probability for yes/no questions, else a mean token log-probability.
    positive : int
        Index of the most confident candidate.
    negatives : tuple of int
        Indices of the least confident ones, least first; every one of them is below the positive.
        Empty where no candidate is: then there is nothing to learn from.
    unaided : float or None
        The same confidence with no document at all; None where it was not asked for.
    positives : tuple of int, or None
        Indices of all right candidates, where labels tell them; the positive is one of them.
    query_image, query_text : tuple of float, or None
        q_i and q_t, for weights that depend on the question; None in files of early versions.

    Raises
    ------
    InputError
        If the lengths differ, a number is not finite, or an index is out of place.
    """

    question_id: str
    patient_id: str | None
    terms: tuple[tuple[float, float, float], ...]
    terms_text_image: tuple[float, ...]
    pair_ids: tuple[str, ...]
    confidence: tuple[float, ...]
    positive: int
    negatives: tuple[int, ...]
    unaided: float | None = None
    query_image: tuple[float, ...] | None = None
    query_text: tuple[float, ...] | None = None
    terms_raw: tuple[tuple[float, float], ...] | None = None
    positives: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.pair_ids)
        lengths = {len(self.terms), len(self.terms_text_image), len(self.confidence)}
        if count < 1 or lengths != {count} or any(len(row) != 3 for row in self.terms):
            raise InputError(
                f"question {self.question_id!r}: candidates, terms and confidences differ in "
                "number, or there are none"
            )
        raw = self.terms_raw
        if raw is not None and (len(raw) != count or any(len(row) != 2 for row in raw)):
            raise InputError(f"question {self.question_id!r}: its raw similarities are not {count}")
        numbers = [value for row in (*self.terms, *(raw or ())) for value in row]
        halves = self.query_image or (), self.query_text or ()
        if bool(halves[0]) != bool(halves[1]):
            raise InputError(f"question {self.question_id!r}: one of its two vectors is missing")
        numbers += [*self.terms_text_image, *self.confidence, self.unaided or 0.0]
        numbers += [*halves[0], *halves[1]]
        if not all(map(_finite, numbers)):
            raise InputError(f"question {self.question_id!r}: a number is missing or not finite")
        right = (self.positive,) if self.positives is None else self.positives
        if self.positive not in right:
            raise InputError(f"question {self.question_id!r}: its positive is not among all")
        places = [*right, *self.negatives]
        inside = all(_index(place, count) for place in places)
        if not inside or len(set(places)) != len(places):
            raise InputError(
                f"question {self.question_id!r}: positive and negatives must be distinct places "
                f"among its {count} candidates"
            )

    @property
    def helps(self) -> bool:
        """Whether the positive leads to the answer more confidently than no document does."""
        return self.unaided is None or self.confidence[self.positive] > self.unaided

    @property
    def trains(self) -> bool:
        """Whether there is something to learn: a positive that helps, and a negative."""
        return bool(self.negatives) and self.helps

    def terms_array(self) -> NDArray[np.float64]:
        """Return the similarities, shape (n, 4) or, with raw ones, (n, 6), float64."""
        columns = [np.array(self.terms), np.array(self.terms_text_image)]
        return np.column_stack([*columns, *([] if self.terms_raw is None else [self.terms_raw])])

    def query_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return q_i and q_t, float32; None where the file has none."""
        if self.query_image is None or self.query_text is None:
            return None
        return np.array(self.query_image, np.float32), np.array(self.query_text, np.float32)


def terms_of(hits: Sequence[Hit]) -> dict[str, Any]:
    """Return the fields of a record that hold the similarities of its candidates."""
    rows = [tuple(round(value, DIGITS) for value in hit.terms.values()) for hit in hits]
    return {
        "terms": tuple((row[0], row[1], row[2]) for row in rows),
        "terms_text_image": tuple(row[3] for row in rows),
        "terms_raw": tuple((row[4], row[5]) for row in rows) if len(rows[0]) > 4 else None,
    }


def rounded(vector: NDArray[np.float32]) -> tuple[float, ...]:
    """Return a vector as a record keeps it."""
    return tuple(round(value, DIGITS) for value in vector.tolist())


@dataclass(frozen=True)
class TrainingSet:
    """A file of training records.

    Attributes
    ----------
    header : TrainingHeader
    records : tuple of TrainingRecord
        All questions; those with `TrainingRecord.trains` are the training set.
    """

    header: TrainingHeader
    records: tuple[TrainingRecord, ...]

    @property
    def usable(self) -> tuple[TrainingRecord, ...]:
        """The records that there is something to learn from."""
        return tuple(record for record in self.records if record.trains)


TRAINING_FILE = LineFormat(
    "d_train",
    1,
    TrainingHeader,
    TrainingRecord,
    "mined training questions; make it with mrrag mine",
    "a training record",
    key="question_id",
)
"""Files that ``mrrag mine`` writes."""


def read_training_set(path: PathLike, *, towers_identity: str | None = None) -> TrainingSet:
    """Read a file of training records; a torn last line, left by a kill, is not read.

    Parameters
    ----------
    path
    towers_identity
        The towers in use; a file of other towers is refused.

    Raises
    ------
    InputError
        If the file cannot be read, is no such file, or was made with other towers.
    """
    header, records = TRAINING_FILE.read(path)
    if towers_identity not in (None, header.towers_identity):
        raise InputError(
            f"{Path(path).name} was mined with towers {header.towers_identity!r}, but "
            f"{towers_identity!r} are in use: mine again with these, or load those"
        )
    return TrainingSet(header, tuple(records))


def _finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(cast(float, value))


def _index(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
