"""What a calibration learns from: scores of documents, and whether each supports a right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.score import FusionWeights, fuse

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.fusion.candidates import Candidates
    from mrrag_llamaindex.learning.mining.records import TrainingRecord
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

SupportRule = Literal["helps_right", "helps", "right"]
"""When a mined document supports a right answer, see `supports`."""

_EVEN = 0.5


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


def supports(record: TrainingRecord, rule: SupportRule = "helps_right") -> NDArray[np.bool_]:
    """Return which candidates of a mined question support a right answer.

    Parameters
    ----------
    record : TrainingRecord
    rule : {"helps_right", "helps", "right"}
        ``helps``: with the document alone the model gives the gold answer more confidently than
        with none. ``right``: it gives the gold one of yes and no the greater part of the
        probability; an open answer's log-probability has no such line, so it is refused.
        ``helps_right``: helps, and to a yes or no also right. A model that would say yes to
        everything is right on half of the questions whatever it reads, and one that a document
        has moved from .1 to .3 is still wrong; so both are asked for.

    Returns
    -------
    ndarray of bool
        Shape (n,).

    Raises
    ------
    InputError
        If the rule needs what the record does not have.
    ValueError
        If there is no such rule.
    """
    if rule not in get_args(SupportRule):
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(get_args(SupportRule))}")
    confidence = np.array(record.confidence)
    # A mean log-probability is below zero, a probability never is.
    is_open = min(*record.confidence, record.unaided or 0.0) < 0
    if rule == "right" and is_open:
        raise InputError(
            f"question {record.question_id!r} has an open answer, which has no line between right "
            'and wrong: choose rule "helps" or "helps_right"'
        )
    if rule != "right" and record.unaided is None:
        raise InputError(
            f"question {record.question_id!r} was not asked without documents, so nothing tells "
            'which of them help: mine it again, or choose rule "right"'
        )
    line = -np.inf if is_open or rule == "helps" else _EVEN
    least = -np.inf if rule == "right" else record.unaided
    found: NDArray[np.bool_] = (confidence > line) & (confidence > least)
    return found


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
            fuse(item.terms_array(), _weights_of(weights, item.query_array())),
            supports(item, rule),
            depth,
        )
        for item in records
    ]


def of_candidates(
    questions: Sequence[Candidates], weights: AnyWeights, *, depth: int = defaults.CANDIDATES
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


def _weights_of(weights: AnyWeights, query: NDArray[np.float32] | None) -> FusionWeights:
    if isinstance(weights, FusionWeights):
        return weights
    if query is None:
        raise InputError(
            "the weights depend on the question, and these records do not hold the questions' "
            "vectors: mine the records again"
        )
    return weights.weights_for(*np.split(query, 2))


def _scored(
    patient: str, scores: NDArray[np.float64], right: NDArray[np.bool_], depth: int
) -> ScoredQuestion:
    order = np.argsort(-scores, kind="stable")[:depth]
    return ScoredQuestion(patient, scores[order], right[order])
