"""What decides on a question's documents, and the plain rules: one similarity, or the fusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mrrag_llamaindex import defaults
from mrrag_llamaindex.mcr.calibration import weights_digest
from mrrag_llamaindex.mcr.weights import FusionWeights

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.generation.prompt.request import PromptDocument
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

IMAGE_TO_TEXT = FusionWeights(1.0, 0.0, 0.0)
"""<q_i, d_t> alone: how RULE and MMed-RAG rank reports."""


class Ranking(Protocol):
    """Choose the documents of a question; a frozen dataclass whose `repr` tells it from others."""

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the documents of question ``row``, best first, each with its score."""
        ...


@dataclass(frozen=True)
class ImageToText:
    """The k reports most similar to the query image: naive RAG.

    Attributes
    ----------
    k : int
        Documents per question.
    """

    k: int = defaults.MAX_DOCUMENTS

    def __post_init__(self) -> None:
        check_count(self.k)

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the k best."""
        return data.fused(row, IMAGE_TO_TEXT, self.k)


@dataclass(frozen=True)
class Fused:
    """The k pairs of highest fused score (MR-RAG, MCR).

    Attributes
    ----------
    weights : FusionWeights or QueryGatedWeights
    k : int
    digest : str
        16 hex digits of the weights, see `weights_digest`.
    """

    weights: AnyWeights = field(repr=False)
    k: int = defaults.MAX_DOCUMENTS
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        check_count(self.k)
        # In place of the weights in what names this ranking: a gate holds thousands of numbers.
        object.__setattr__(self, "digest", weights_digest(self.weights))

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the k best; whether their scores steer is the policy's business."""
        return data.fused(row, self.weights, self.k)


def check_count(k: int) -> None:
    """Raise `ValueError` unless k is a positive whole number."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"the number of documents is {k!r}; it must be at least 1")
