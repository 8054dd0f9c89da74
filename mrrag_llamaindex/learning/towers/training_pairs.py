"""The pairs that towers are trained on, each of a known patient, and their split by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from mrrag_llamaindex.errors import ImageError, InputError
from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.images.load import ImageSource, image_digest, load_image
from mrrag_llamaindex.statistics.patients import split_by_patient
from mrrag_llamaindex.store.pair import Pair, Skipped

_AT_ONCE = 64


@dataclass(frozen=True)
class TrainingPairs:
    """Pairs to train on, and the rows that cannot be.

    Attributes
    ----------
    images : tuple
        Path or open image of each pair; `load` decodes them.
    reports, patients, pair_ids : tuple of str
    image_keys, text_keys : tuple of str
        SHA-256 of each image and report.
    skipped : tuple of Skipped
    questions : tuple of str
        What may be asked about each pair, ``""`` for nothing; empty where no column was named.
    """

    images: tuple[ImageSource, ...]
    reports: tuple[str, ...]
    patients: tuple[str, ...]
    pair_ids: tuple[str, ...]
    image_keys: tuple[str, ...]
    text_keys: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    questions: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.reports)

    def digest(self) -> str:
        """SHA-256 over images, reports, patients and questions in their order."""
        keys = map(" ".join, zip(self.image_keys, self.text_keys, strict=True))
        questions = [text_digest(one) for one in self.questions]
        return text_digest("\n".join([*keys, *self.patients, *questions]))

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Return the reports of some pairs."""
        return [self.reports[row] for row in rows]

    def load(self, rows: Sequence[int], workers: int = 4) -> list[Image.Image]:
        """Decode the images of some pairs, on several threads."""

        def one(row: int) -> Image.Image:
            return load_image(self.images[row], what=f"image of pair {self.pair_ids[row]!r}")

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, rows))


@dataclass(frozen=True)
class Split:
    """Places of the pairs of each part, ascending, int64."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split_pairs(patients: Sequence[str], validation: float, test: float, seed: int = 0) -> Split:
    """Split pairs into three parts, no patient in two of them.

    Parameters
    ----------
    patients : sequence of str
        Patient of each pair.
    validation, test : float
        Share of the patients in each part, in [0, 1), together below 1. Of a share above 0 at
        least one patient is taken.
    seed : int

    Raises
    ------
    ValueError
        If a share is out of range.
    InputError
        If there are too few patients for the parts.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError("the validation and test shares must be in [0, 1), together below 1")
    needed, distinct = 1 + bool(validation) + bool(test), len(set(patients))
    if distinct < needed:
        raise InputError(
            f"{distinct} patient{'' if distinct == 1 else 's'} cannot be split into {needed} parts,"
            " no patient in two of them: add patients"
            + (", or hold out none for the result (test=0, --test 0)" if test else "")
        )
    rest = list(range(len(patients)))
    parts: dict[str, list[int]] = {"test": [], "validation": []}
    for part, share in (("test", test), ("validation", validation / (1 - test))):
        if share:
            kept, out = split_by_patient([patients[row] for row in rest], share, seed)
            parts[part] = [rest[place] for place in out]
            rest = [rest[place] for place in kept]
    rows = (rest, parts["validation"], parts["test"])
    return Split(*(torch.tensor(part, dtype=torch.int64) for part in rows))


def training_pairs(
    rows: Iterable[Pair | Skipped],
    *,
    one_patient_each: bool = False,
    question_column: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> TrainingPairs:
    """Check rows of a table for training; every image is decoded once.

    A damaged image is better found now than by the training, hours later.

    Parameters
    ----------
    rows : iterable of Pair or Skipped
        For example from `mrrag_llamaindex.store.ingest.pair_table.read_pairs`.
    one_patient_each : bool
        Where no pair names its patient: count each as a patient of its own. Two films of one
        patient can then stand in two parts of the split, and recall is too good.
    question_column : str, optional
        Metadata that holds what may be asked about a pair: a history, an indication. Pairs may
        lack it.
    progress : callable, optional
        Takes the number of rows read.

    Raises
    ------
    InputError
        If no row can be used, two rows share an id, a pair names no patient (or does, with
        ``one_patient_each``), or none has the question column.
    """
    kept: list[tuple[Pair, str]] = []
    skipped: list[Skipped] = []
    items = iter(rows)
    number = 0
    with ThreadPoolExecutor(4) as pool:
        while batch := list(islice(items, _AT_ONCE)):
            for item, digest in zip(batch, pool.map(_checked, batch), strict=True):
                number += 1
                if isinstance(item, Skipped):
                    skipped.append(item)
                elif isinstance(digest, ImageError):
                    skipped.append(Skipped(number, item.pair_id, str(digest)))
                elif digest.startswith("no "):
                    skipped.append(Skipped(number, item.pair_id, digest))
                else:
                    kept.append((item, digest))
            if progress:
                progress(number)
    if not kept:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"none of the {number} rows is a pair to train on{first}")
    pairs = [pair for pair, _ in kept]
    ids = [pair.pair_id for pair in pairs]
    twice = next((one for one, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two rows have the pair_id {twice!r}")
    texts = [pair.report or "" for pair in pairs]
    return TrainingPairs(
        images=tuple(pair.image for pair in pairs if pair.image is not None),
        reports=tuple(texts),
        patients=_patients(pairs, one_patient_each),
        pair_ids=tuple(ids),
        image_keys=tuple(key for _, key in kept),
        text_keys=tuple(map(text_digest, texts)),
        skipped=tuple(skipped),
        questions=_questions(pairs, question_column),
    )


def _questions(pairs: Sequence[Pair], column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    questions = tuple(str(pair.metadata.get(column, "")).strip() for pair in pairs)
    if not any(questions):
        raise InputError(
            f"no pair has anything in the question column {column!r}: name another column"
        )
    return questions


def _checked(item: Pair | Skipped) -> str | ImageError:
    """Digest of the image, or why the pair is of no use."""
    if isinstance(item, Skipped):
        return ""
    if item.image is None or item.report is None:
        return "no image" if item.image is None else "no report"
    try:
        load_image(item.image)
        return image_digest(item.image)
    except ImageError as error:
        return error


def _patients(pairs: Sequence[Pair], one_patient_each: bool) -> tuple[str, ...]:
    unnamed = [pair for pair in pairs if pair.patient_id is None]
    if one_patient_each:
        if len(unnamed) < len(pairs):
            raise InputError("the table names patients, so its pairs are split by them")
        return tuple(pair.pair_id for pair in pairs)
    if unnamed:
        raise InputError(
            f"{len(unnamed)} of {len(pairs)} pairs name no patient, {unnamed[0].pair_id!r} first: "
            "the parts are split by patient. Name the column (patient_id=COLUMN), or, where the "
            "table knows no patients, count each pair as a patient of its own"
        )
    return tuple(pair.patient_id or "" for pair in pairs)
