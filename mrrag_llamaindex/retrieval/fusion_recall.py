"""What learned weights are worth on patients they were not learned on, against simpler weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from mrrag_llamaindex.retrieval.gated_training import GateSettings, LearnedGate, train_gate
from mrrag_llamaindex.retrieval.score import fuse
from mrrag_llamaindex.retrieval.training_records import TrainingRecord
from mrrag_llamaindex.retrieval.weights import ALL_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.retrieval.weights_file import AnyWeights

SIMPLE = {
    "image_text": FusionWeights(1, 0, 0),
    "image_image": FusionWeights(0, 1, 0),
    "text_text": FusionWeights(0, 0, 1),
    "equal": FusionWeights(1, 1, 1),
}
"""What learned weights are compared with, by name."""

_VALIDATION = 0.25
_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Candidates:
    """A question's candidates, which of them are right at rank 1, and what it teaches.

    Parameters
    ----------
    patient_id : str
    terms : ndarray
        Shape (n, 3) in the order of `TERMS`, or (n, 4) in that of `ALL_TERMS`.
    right : ndarray of bool
        Shape (n,).
    example : FusionExample or None
        None if there is nothing to learn from; the question is measured on all the same.
    query : ndarray or None
        Shape (2n,): q_i, then q_t, for weights that depend on the question; None if not known.
    """

    patient_id: str
    terms: NDArray[np.float64]
    right: NDArray[np.bool_]
    example: FusionExample | None
    query: NDArray[np.float32] | None = None

    @classmethod
    def of_record(cls, record: TrainingRecord) -> Candidates:
        """Turn a mined record into candidates: only its positive is right.

        A question without a patient counts as a patient of its own.
        """
        patient = record.patient_id
        name = f"question:{record.question_id}" if patient is None else f"patient:{patient}"
        terms, query = record.terms_array(), record.query_array()
        right = np.arange(len(terms)) == record.positive
        negatives = terms[list(record.negatives)]
        example = (
            FusionExample(name, terms[record.positive], negatives, query)
            if len(negatives)
            else None
        )
        return cls(name, terms, right, example, query)

    def hit(self, weights: AnyWeights) -> float:
        """Return the share of the first-ranked candidates that are right (1 or 0 unless tied)."""
        halves = (None, None) if self.query is None else np.split(self.query, 2)
        scores = fuse(self.terms, weights.weights_for(*halves))
        return float(self.right[scores == scores.max()].mean())


@dataclass(frozen=True, eq=False)
class FusionComparison:
    """Learned weights, and recall@1 of them and of simpler ones on held-out patients.

    Attributes
    ----------
    learned : LearnedFusion
        The paper's three weights.
    four_terms : LearnedFusion or None
        With the fourth; None if the candidates lack that similarity.
    gated : LearnedGate or None
        Weights for each question; None if not asked for.
    hits : dict of ndarray
        By name, for each held-out question whether the first-ranked candidate is right: the three
        terms alone, ``equal``, ``learned``, and ``four_terms`` and ``gated`` where there are any.
    patients : tuple of str
        Patients of the held-out questions.
    shares : dict
        By term, how much of what tells a question's candidates apart is its doing: the size of the
        learned weight times the term's standard deviation over the candidates (mean over the
        held-out questions), as shares of 1. A term that hardly varies may have a large weight and
        decide nothing.
    seed : int
        Of the bootstrap.
    """

    learned: LearnedFusion
    four_terms: LearnedFusion | None
    gated: LearnedGate | None
    hits: Mapping[str, NDArray[np.float64]]
    patients: tuple[str, ...]
    shares: dict[str, float]
    seed: int = 0

    @property
    def table(self) -> RecallTable:
        """Recall@1 with intervals."""
        return RecallTable.of(self.hits, self.patients, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``mrrag train-fusion --json`` prints."""
        weights = dict(zip(TERMS, self.learned.weights.as_array().tolist(), strict=True))
        found = {"weights": weights, "shares": self.shares, **self.table.as_dict()}
        if self.four_terms is not None:
            values = self.four_terms.weights.as_array(ALL_TERMS).tolist()
            found["four_terms"]["weights"] = dict(zip(ALL_TERMS, values, strict=True))
        if self.gated is not None:
            found["gated"]["epoch"] = self.gated.epoch
        return found


@dataclass(frozen=True)
class RecallTable:
    """Recall@1 of several weights on the same questions.

    Attributes
    ----------
    recall : dict
        By name.
    ci : dict
        95% intervals (percentile bootstrap over patients) of the same, and of the paired
        differences: learned minus ``equal``, minus the best single term, and, under their own
        names, ``gated-learned`` and ``four_terms-learned``.
    best_single : str
        The term that does best alone on the held-out patients: the hardest to beat.
    n : int
        Held-out questions.
    """

    recall: dict[str, float]
    ci: dict[str, tuple[float, float]]
    best_single: str
    n: int

    @classmethod
    def of(
        cls, hits: Mapping[str, NDArray[np.float64]], patients: Sequence[str], seed: int
    ) -> RecallTable:
        """Summarise hits (by name, one for each question) of questions of `patients`."""
        recall = {name: float(values.mean()) for name, values in hits.items()}
        best = max(TERMS, key=lambda name: recall[name])
        rows = dict(hits)
        for name in (best, "equal"):
            rows[f"learned-{name}"] = hits["learned"] - hits[name]
        for name in ("four_terms", "gated"):
            if name in hits:
                rows[f"{name}-learned"] = hits[name] - hits["learned"]
        return cls(recall, bootstrap_by_patient(rows, patients, seed), best, len(patients))

    def apart(self, one: str, other: str) -> bool:
        """Whether the two intervals do not overlap."""
        (low, high), (other_low, other_high) = self.ci[one], self.ci[other]
        return low > other_high or high < other_low

    def verdict(self, difference: str) -> str:
        """Return in words whether a paired difference of `ci` is more than noise."""
        low, high = self.ci[difference]
        return "more than noise" if low > 0 or high < 0 else "not more than noise"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; what goes beyond the paper stands under its own name."""
        beyond = [name for name in ("four_terms", "gated") if name in self.recall]
        paper = {name: value for name, value in self.recall.items() if name not in beyond}
        ci = {name: self.ci[name] for name in self.ci if name.partition("-")[0] not in beyond}
        found: dict[str, Any] = {"recall_at_1": paper, "ci": ci, "n": self.n}
        for name in beyond:
            difference = f"{name}-learned"
            found[name] = {
                "recall_at_1": self.recall[name],
                "ci": self.ci[name],
                "minus_learned": self.recall[name] - self.recall["learned"],
                "minus_learned_ci": self.ci[difference],
                "verdict": self.verdict(difference),
            }
        return found


def learn_and_compare(
    questions: Sequence[Candidates],
    *,
    held_out: float = 0.5,
    seed: int = 0,
    settings: FusionSettings | None = None,
    gate: GateSettings | None = None,
    gate_terms: tuple[str, ...] = TERMS,
) -> FusionComparison:
    """Split by patient, learn and validate on one part, measure on the other.

    Parameters
    ----------
    questions
        The fourth term is tried if all of them have it.
    held_out
        Share of the patients to measure on; a quarter of the others validates.
    seed
        Of both splits and the bootstrap.
    settings
        Default: `FusionSettings()`.
    gate
        If given, weights for each question are learned and measured, too.
    gate_terms
        `TERMS`: the gate corrects the three weights; `ALL_TERMS`: the four.

    Raises
    ------
    InputError
        If there are fewer than three patients, no example on either side of the validation, or a
        gate or four terms are asked of questions without vectors or without the fourth term.
    """
    rest, measured = split_by_patient([item.patient_id for item in questions], held_out, seed)
    examples = [item.example for item in (questions[place] for place in rest) if item.example]
    if not examples:
        raise InputError("no question of the training patients teaches anything")
    places = split_by_patient([item.patient_id for item in examples], _VALIDATION, seed)
    fit, check = ([examples[place] for place in part] for part in places)
    learned = train_fusion(fit, check, settings)
    tried: dict[str, AnyWeights] = {**SIMPLE, "learned": learned.weights}
    four, gated = None, None
    if all(item.terms.shape[1] == len(ALL_TERMS) for item in questions):
        four = train_fusion(fit, check, settings, terms=ALL_TERMS)
        tried["four_terms"] = four.weights
    elif gate_terms == ALL_TERMS:
        raise InputError("these questions lack the fourth similarity, text to image")
    if gate is not None:
        base = learned if gate_terms == TERMS or four is None else four
        gated = train_gate(fit, check, base, gate, terms=gate_terms)
        tried["gated"] = gated.weights
    kept = [questions[place] for place in measured]
    hits = {name: np.array([item.hit(made) for item in kept]) for name, made in tried.items()}
    patients = tuple(item.patient_id for item in kept)
    return FusionComparison(
        learned, four, gated, hits, patients, _shares(learned.weights, kept), seed
    )


def _shares(weights: FusionWeights, questions: Sequence[Candidates]) -> dict[str, float]:
    spread = np.mean([item.terms[:, : len(TERMS)].std(axis=0) for item in questions], axis=0)
    sizes = np.abs(weights.as_array()) * spread
    total = float(sizes.sum()) or 1.0
    return dict(zip(TERMS, (sizes / total).tolist(), strict=True))


def bootstrap_by_patient(
    rows: Mapping[str, NDArray[np.float64]], patients: Sequence[str], seed: int
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
