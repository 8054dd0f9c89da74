"""What a calibration learns from: scores of documents, and whether each supports a right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.examples import QueryVectors
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.mining.records import TrainingRecord
from mrrag_llamaindex.learning.mining.support import SupportRule, supporting_documents
from mrrag_llamaindex.mcr.score import FusionWeights, fuse
from mrrag_llamaindex.mcr.weights_file import AnyWeights


@dataclass(frozen=True, eq=False)
class ScoredQuestion:
    """The documents that would be shown for one question.

    Parameters
    ----------
    patient_id : str
    scores : ndarray
        Fused scores, shape (n,), highest first.
    right : ndarray of bool
        Whether each supports a right answer, shape (n,).
    """

    patient_id: str
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not len(self.scores) or self.scores.shape != self.right.shape or self.scores.ndim != 1:
            raise InputError("a question needs documents, each with a score and its support")
        if not np.isfinite(self.scores).all() or (np.diff(self.scores) > 0).any():
            raise InputError("scores must be finite, and the highest must come first")

    @property
    def best_is_right(self) -> bool:
        """Whether the best document supports; of equally good ones, all must."""
        return bool(self.right[self.scores == self.scores[0]].all())


def of_records(
    records: Sequence[TrainingRecord],
    weights: AnyWeights,
    *,
    rule: SupportRule = "helps_right",
    depth: int = defaults.CANDIDATES,
) -> list[ScoredQuestion]:
    """Score mined questions; one without a patient counts as a patient of its own.

    Parameters
    ----------
    records : sequence of TrainingRecord
    weights : FusionWeights or QueryGatedWeights
        What ranks in use. Should be what retrieved the candidates: a document that these weights
        alone would have found is not among them.
    rule : {"helps_right", "helps", "right"}
    depth : int
        Best-ranked documents of each question that count: those that a retriever would see.

    Raises
    ------
    InputError
        If the rule, or weights that depend on the question, need what a record does not have.
    """
    return [
        _scored(
            f"question:{item.question_id}"
            if item.patient_id is None
            else f"patient:{item.patient_id}",
            fuse(item.terms_array(), _weights_of(weights, item.query_vectors())),
            supporting_documents(item, rule),
            depth,
        )
        for item in records
    ]


def of_questions(
    questions: Sequence[FusionQuestion], weights: AnyWeights, *, depth: int = defaults.CANDIDATES
) -> list[ScoredQuestion]:
    """Score questions whose every candidate is labelled by the truth; see `of_records`."""
    return [
        _scored(
            item.patient_id,
            fuse(item.terms, _weights_of(weights, item.query)),
            item.right,
            depth,
        )
        for item in questions
    ]


def _weights_of(weights: AnyWeights, query: QueryVectors | None) -> FusionWeights:
    if isinstance(weights, FusionWeights):
        return weights
    if query is None:
        raise InputError(
            "the weights depend on the question, and these records do not hold the questions' "
            "vectors: mine the records again"
        )
    return weights.weights_for(*query)


def _scored(
    patient: str, scores: NDArray[np.float64], right: NDArray[np.bool_], depth: int
) -> ScoredQuestion:
    order = np.argsort(-scores, kind="stable")[:depth]
    return ScoredQuestion(patient, scores[order], right[order])
