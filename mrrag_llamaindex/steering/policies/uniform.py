"""Uniform: IFA with the same weight for every document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policy import Weighted
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class Uniform(IFA):
    """IFA with lambda 1 for every document: more attention to the evidence, whatever its worth.

    The ablation that asks whether relevance matters, or attention to documents as such. Fields,
    rows, layers and formula are those of `IFA`.
    """

    idle: ClassVar[str] = "no document is in the prompt"
    reads_lambdas: ClassVar[bool] = False

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of every document, weighted with the strength."""
        return self.with_image(spans, [(span, self.strength) for span in spans.documents])
