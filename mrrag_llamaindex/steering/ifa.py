"""IFA, the method: how relevance becomes lambda, and how lambda changes an attention logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.policy import Weighted, checked_layers
from mrrag_llamaindex.steering.spans import PromptSpans


def min_max_lambdas(scores: Sequence[float | None]) -> tuple[float, ...]:
    """Min-max normalise the relevance scores of one question's documents.

    ``lambda_k = (s_k - s_min) / (s_max - s_min)`` over the documents that have a score
    (MR-RAG, Li et al., CVPR 2026, IFA). The paper leaves 0/0 open; here a single scored
    document, or equal scores, gives 0 for every document: there is nothing to prefer.

    Parameters
    ----------
    scores
        One MCR score per document, in prompt order. ``None`` marks a document whose
        relevance is unknown; it gets 0 and takes no part in the minimum or maximum.

    Returns
    -------
    tuple of float
        One value in [0, 1] per document.

    Raises
    ------
    SteeringError
        If a score is NaN or infinite.

    Examples
    --------
    >>> min_max_lambdas([1.0, None, 3.0, 2.0])
    (0.0, 0.0, 1.0, 0.5)
    >>> min_max_lambdas([0.7])
    (0.0,)
    """
    for position, score in enumerate(scores):
        if score is not None and not math.isfinite(score):
            raise SteeringError(
                f"document {position}: the relevance score is {score}, not a finite number; "
                "compare the towers and fusion weights that produced it"
            )
    known = [score for score in scores if score is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    if high == low:
        return (0.0,) * len(scores)
    return tuple(0.0 if score is None else (score - low) / (high - low) for score in scores)


@dataclass(frozen=True)
class IFA:
    """Raise the attention of question tokens to relevant documents, by how relevant they are.

    ``A'_ij = A_ij + lambda_ij * |A_ij|`` on the logits before mask and softmax, for rows `i` of
    the question and columns `j` of a document, in the critical layers (MR-RAG, IFA).

    Attributes
    ----------
    strength
        Factor on lambda, at least 0. 1 is the paper's formula, 0 switches steering off.
    layers
        Indices of the decoder layers to steer; ``None`` takes the model's own profile.
    question_rows
        ``"question"`` steers the question's own tokens; ``"to_end"`` also those after it, up to
        the end of the prompt.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    strength: float = defaults.STRENGTH
    layers: tuple[int, ...] | None = None
    question_rows: Literal["question", "to_end"] = "question"

    heads: ClassVar[None] = None
    every_step: ClassVar[bool] = False
    idle: ClassVar[str] = "no document has a relevance above zero"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength must be a finite number >= 0, got {self.strength!r}")
        object.__setattr__(self, "layers", checked_layers(self.layers))
        if self.question_rows not in ("question", "to_end"):
            raise ValueError(
                f"question_rows must be 'question' or 'to_end', got {self.question_rows!r}"
            )

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Apply the formula to the raw logits of steered rows.

        Parameters
        ----------
        logits
            Scaled dot products before any mask, float, (..., rows, columns).
        weights
            Strength times lambda, broadcastable to `logits`; 0 outside the documents.

        Returns
        -------
        torch.Tensor
            New logits, in the shape of `logits`.

        Examples
        --------
        >>> IFA().steer(torch.tensor([2.0, -2.0, 4.0]), torch.tensor([0.5, 0.5, 0.0])).tolist()
        [3.0, -1.0, 4.0]
        """
        return torch.addcmul(logits, weights, logits.abs())

    @property
    def is_off(self) -> bool:
        """Whether the strength is 0."""
        return self.strength == 0

    def default_layers(self, depth: int) -> None:
        """Take the critical layers of the model's profile."""
        return None

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Rows of the question, or from its start to the end of the prompt."""
        start, stop = spans.question
        return start, spans.length if self.question_rows == "to_end" else stop

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of every document with a lambda above 0, weighted strength times lambda."""
        pairs = zip(spans.documents, lambdas, strict=True)
        return [(span, self.strength * value) for span, value in pairs if value > 0]
