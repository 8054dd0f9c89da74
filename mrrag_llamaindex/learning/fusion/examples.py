"""What the fusion weights are learned from: cached similarities of questions, alone and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, TERMS

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
QueryVectors: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""q_i and q_t."""


@dataclass(frozen=True, eq=False)
class FusionExample:
    """One question's cached similarities: a positive or several, and negatives below them.

    Parameters
    ----------
    patient_id : str
    positive : ndarray
        Shape (t,), or (p, t) for p right candidates; t = 3 in the order of `TERMS`, 4 in that of
        `HEAD_TERMS`, or 6 in that of `ALL_TERMS`.
    negatives : ndarray
        Shape (m, t), m at least 1.
    query : tuple of two ndarray, or None
        q_i and q_t, for weights that depend on the question; None if not known.
    """

    patient_id: str
    positive: Array
    negatives: Array
    query: QueryVectors | None = None

    def __post_init__(self) -> None:
        shapes = self.positive.shape, self.negatives.shape
        width = shapes[0][-1] if shapes[0] else 0
        known = width in map(len, (TERMS, HEAD_TERMS, ALL_TERMS)) and len(shapes[0]) in (1, 2)
        if not known or shapes[1] != (len(self.negatives), width) or not self.positive.size:
            raise InputError(f"a training example has shapes {shapes}; expected (3,) and (m, 3)")
        if not len(self.negatives):
            raise InputError("a training example has no negatives")

    @property
    def positives(self) -> Array:
        """The positives, shape (p, t)."""
        return np.atleast_2d(self.positive)


@dataclass(frozen=True, eq=False)
class PaddedExamples:
    """Examples of different lengths as arrays, padded to the longest.

    Attributes
    ----------
    terms : ndarray
        Shape (n, c, t), the positives first.
    right, real : ndarray of bool
        Shape (n, c): which are positives, and which are candidates at all.
    """

    terms: Array
    right: Mask
    real: Mask

    @classmethod
    def of(
        cls, examples: Sequence[FusionExample], terms: tuple[str, ...] = TERMS
    ) -> PaddedExamples:
        """Pad the examples; of their similarities those of `terms` are kept.

        Raises
        ------
        InputError
            If an example lacks one of `terms`.
        """
        width = len(terms)
        if any(example.negatives.shape[1] < width for example in examples):
            raise InputError(f"the training examples lack a similarity of {', '.join(terms)}")
        longest = max(len(item.positives) + len(item.negatives) for item in examples)
        values = np.zeros((len(examples), longest, width))
        right, real = (np.zeros((len(examples), longest), dtype=bool) for _ in range(2))
        for row, item in enumerate(examples):
            rows = np.concatenate([item.positives, item.negatives])
            values[row, : len(rows)] = rows[:, :width]
            right[row, : len(item.positives)] = True
            real[row, : len(rows)] = True
        return cls(values, right, real)

    def recall(self, weights: Array) -> float:
        """Return how often a positive is strictly first: a tie with a negative is no success."""
        scores = self.terms @ weights
        best = np.where(self.right, scores, -np.inf).max(axis=1)
        return float((best > np.where(self.real & ~self.right, scores, -np.inf).max(axis=1)).mean())
