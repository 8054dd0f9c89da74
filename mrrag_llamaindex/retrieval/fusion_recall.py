"""What learned weights are worth on patients they were not learned on, against simpler weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.fusion_training import (
    FusionExample,
    FusionSettings,
    LearnedFusion,
    split_by_patient,
    train_fusion,
)
from mrrag_llamaindex.retrieval.training_records import TrainingRecord
from mrrag_llamaindex.retrieval.weights import TERMS, FusionWeights

_SIMPLE = {
    "image_text": FusionWeights(1, 0, 0),
    "image_image": FusionWeights(0, 1, 0),
    "text_text": FusionWeights(0, 0, 1),
    "equal": FusionWeights(1, 1, 1),
}
_VALIDATION = 0.25
_RESAMPLES = 2000


@dataclass(frozen=True)
class Candidates:
    """A question's candidates, which of them are right at rank 1, and what it teaches.

    Parameters
    ----------
    patient_id : str
    terms : ndarray
        Shape (n, 3), in the order of `TERMS`.
    right : ndarray of bool
        Shape (n,).
    example : FusionExample or None
        None if there is nothing to learn from; the question is measured on all the same.
    """

    patient_id: str
    terms: NDArray[np.float64]
    right: NDArray[np.bool_]
    example: FusionExample | None

    @classmethod
    def of_record(cls, record: TrainingRecord) -> Candidates:
        """Turn a mined record into candidates: only its positive is right.

        A question without a patient counts as a patient of its own.
        """
        patient = record.patient_id
        name = f"question:{record.question_id}" if patient is None else f"patient:{patient}"
        terms = np.array(record.terms, dtype=np.float64)
        right = np.arange(len(terms)) == record.positive
        negatives = terms[list(record.negatives)]
        example = FusionExample(name, terms[record.positive], negatives) if len(negatives) else None
        return cls(name, terms, right, example)

    def hit(self, weights: FusionWeights) -> float:
        """Return the share of the first-ranked candidates that are right (1 or 0 unless tied)."""
        scores = self.terms @ weights.as_array()
        return float(self.right[scores == scores.max()].mean())


@dataclass(frozen=True)
class FusionComparison:
    """Learned weights, and recall@1 of them and of simpler ones on held-out patients.

    Attributes
    ----------
    learned : LearnedFusion
    recall : dict
        By name: the three terms alone, ``equal``, ``learned``.
    ci : dict
        95% intervals (percentile bootstrap over patients) of the same, and of the paired
        differences ``learned-equal`` and ``learned-<best single term>``.
    best_single : str
        The term that does best alone on the held-out patients: the hardest to beat.
    n : int
        Held-out questions.
    """

    learned: LearnedFusion
    recall: dict[str, float]
    ci: dict[str, tuple[float, float]]
    best_single: str
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Return what ``mrrag train-fusion --json`` prints."""
        weights = dict(zip(TERMS, self.learned.weights.as_array().tolist(), strict=True))
        return {"weights": weights, "recall_at_1": self.recall, "ci": self.ci, "n": self.n}


def learn_and_compare(
    questions: Sequence[Candidates],
    *,
    held_out: float = 0.5,
    seed: int = 0,
    settings: FusionSettings | None = None,
) -> FusionComparison:
    """Split by patient, learn and validate on one part, measure on the other.

    Raises
    ------
    InputError
        If there are fewer than three patients, or no example on either side of the validation.
    """
    rest, measured = split_by_patient([item.patient_id for item in questions], held_out, seed)
    examples = [item.example for item in (questions[place] for place in rest) if item.example]
    if not examples:
        raise InputError("no question of the training patients teaches anything")
    fit, check = split_by_patient([item.patient_id for item in examples], _VALIDATION, seed)
    learned = train_fusion(
        [examples[place] for place in fit], [examples[place] for place in check], settings
    )
    kept = [questions[place] for place in measured]
    tried = {**_SIMPLE, "learned": learned.weights}
    hits = {name: np.array([item.hit(w) for item in kept]) for name, w in tried.items()}
    recall = {name: float(values.mean()) for name, values in hits.items()}
    best = max(TERMS, key=lambda name: recall[name])
    rows = dict(hits)
    for name in (best, "equal"):
        rows[f"learned-{name}"] = hits["learned"] - hits[name]
    ci = bootstrap_by_patient(rows, [item.patient_id for item in kept], seed)
    return FusionComparison(learned, recall, ci, best, len(kept))


def bootstrap_by_patient(
    rows: dict[str, NDArray[np.float64]], patients: Sequence[str], seed: int
) -> dict[str, tuple[float, float]]:
    """Return 95% percentile intervals of means; patients are drawn, with all their questions.

    Every row is resampled by the same draws, so a row of differences is a paired bootstrap.
    """
    place = np.unique(np.array(patients), return_inverse=True)[1]
    count = int(place.max()) + 1
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    times = np.stack([np.bincount(row, minlength=count) for row in drawn])
    size = times @ np.bincount(place, minlength=count)
    found = {}
    for name, values in rows.items():
        means = times @ np.bincount(place, weights=values, minlength=count) / size
        low, high = np.percentile(means, [2.5, 97.5])
        found[name] = (float(low), float(high))
    return found
