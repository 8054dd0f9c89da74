"""PASTA: attention to all but the relevant documents is scaled down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.policy import (
    Layers,
    QuestionRows,
    SteeringPolicy,
    Weighted,
    checked_heads,
    layers_of,
)
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class PASTA(SteeringPolicy):
    """Highlight the relevant documents by scaling attention to all else down.

    ``A_ij * alpha / C_i`` for columns `j` outside the highlighted set, ``A_ij / C_i`` inside, with
    ``C_i`` so that a row sums to 1 (PASTA, Zhang et al., ICLR 2024): the same as adding log(alpha)
    to the logits of the columns outside. The set is every document with lambda at or above the
    threshold; outside is the rest of the prompt. Generated tokens keep their logits.

    Two things differ from the original. Its rows are all rows; here they are those from the
    question on, and by default every decode step, so that image and documents may be prefilled
    once for all policies. Its heads come from a profile of about 1,000 examples per task; here
    they are all heads of the critical layers unless named.

    Attributes
    ----------
    alpha
        Factor on attention to what is not highlighted, in (0, 1]; 1 switches it off.
    threshold
        Least lambda of a highlighted document, in (0, 1].
    layers
        None: those of `heads`, else the model's critical layers.
    heads
        Query heads by layer, ``{layer: (head, ...)}``; None for all heads.
    question_rows
        As for `IFA`.
    every_step
        As for `IFA`; True is the original, whose highlighting never ends.

    Raises
    ------
    ValueError
        If a field is out of range, or `layers` are not those of `heads`.
    """

    alpha: float = defaults.PASTA_ALPHA
    threshold: float = defaults.RELEVANCE_THRESHOLD
    layers: Layers | None = None
    heads: Mapping[int, tuple[int, ...]] | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS
    every_step: bool = True

    tuned: ClassVar[str] = "threshold"  # what tells documents apart; alpha stays as published
    three_values: ClassVar[tuple[float, float, float]] = (0.25, 0.5, 0.75)
    four_values: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {self.alpha!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold!r}")
        if self.heads is not None:
            object.__setattr__(self, "heads", checked_heads(self.heads))
            object.__setattr__(self, "layers", layers_of(self.layers, heads=self.heads))
            super().__post_init__()

    @property
    def is_off(self) -> bool:
        """Whether alpha is 1."""
        return self.alpha == 1

    @property
    def idle(self) -> str:
        """Why nothing is highlighted."""
        return f"no document has a lambda of {self.threshold:g} or more"

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Add log(alpha) where the weight is 1.

        Examples
        --------
        >>> weights = torch.tensor([1.0, 0.0])
        >>> row = PASTA(alpha=0.25).steer(torch.tensor([0.0, 0.0]), weights).softmax(-1)
        >>> [round(p, 4) for p in row.tolist()]
        [0.2, 0.8]
        """
        return torch.add(logits, weights, alpha=math.log(self.alpha))

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Every column of the prompt outside the highlighted documents; none if there are none."""
        pairs = zip(spans.documents, lambdas, strict=True)
        inside = [span for span, value in pairs if value >= self.threshold]
        if not inside or self.is_off:
            return []
        edges = [0, *(edge for span in inside for edge in span), spans.length]
        outside = zip(edges[::2], edges[1::2], strict=True)
        return [((start, stop), 1.0) for start, stop in outside if start < stop]
