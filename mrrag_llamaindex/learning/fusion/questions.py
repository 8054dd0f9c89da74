"""A question's candidates as the fusion learns from them, and as it is measured on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.learning.fusion.examples import FusionExample, QueryVectors
from mrrag_llamaindex.learning.mining.records import TrainingRecord
from mrrag_llamaindex.learning.mining.support import supporting_documents
from mrrag_llamaindex.mcr.score import fuse
from mrrag_llamaindex.mcr.weights_file import AnyWeights


@dataclass(frozen=True, eq=False)
class FusionQuestion:
    """A question's candidates, which of them are right at rank 1, and what it teaches.

    Parameters
    ----------
    patient_id : str
    terms : ndarray
        Shape (n, 3) in the order of `TERMS`, (n, 4) in that of `HEAD_TERMS`, or (n, 6) in that of
        `ALL_TERMS`.
    right : ndarray of bool
        Shape (n,).
    example : FusionExample or None
        None if there is nothing to learn from; the question is measured on nevertheless.
    query : tuple of two ndarray, or None
        q_i and q_t, for weights that depend on the question; None if not known.
    """

    patient_id: str
    terms: NDArray[np.float64]
    right: NDArray[np.bool_]
    example: FusionExample | None
    query: QueryVectors | None = None

    @classmethod
    def of_record(cls, record: TrainingRecord) -> FusionQuestion:
        """Turn a mined record into candidates; it is learned from its positive and negatives.

        Right at rank 1 are the positive and whatever else supports a right answer (see
        `supporting_documents`): where several documents do, which of them the generator is
        most confident with says little. Of a record that was not asked without documents, only
        the positive is right. A question without a patient counts as a patient of its own.
        """
        patient = record.patient_id
        name = f"question:{record.question_id}" if patient is None else f"patient:{patient}"
        terms, query = record.terms_array(), record.query_vectors()
        right = np.arange(len(terms)) == record.positive
        if record.unaided is not None:
            right |= supporting_documents(record)
        negatives = terms[list(record.negatives)]
        positives = terms[list(record.positives or [record.positive])]
        example = FusionExample(name, positives, negatives, query) if len(negatives) else None
        return cls(name, terms, right, example, query)

    def hit(self, weights: AnyWeights) -> float:
        """Return the share of the first-ranked candidates that are right (1 or 0 unless tied)."""
        scores = fuse(self.terms, weights.weights_for(*(self.query or (None, None))))
        return float(self.right[scores == scores.max()].mean())
