"""The other policies on documents, which IFA is compared with, on its plan and attention hook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policy import Weighted, checked_layers
from mrrag_llamaindex.steering.spans import PromptSpans

__all__ = ["PASTA", "HardMask", "Uniform"]


@dataclass(frozen=True)
class Uniform(IFA):
    """IFA with lambda 1 for every document: more attention to the evidence, whatever its worth.

    The ablation that asks whether relevance matters, or attention to documents as such. Fields,
    rows, layers and formula are those of `IFA`; the documents' relevance is not read.
    """

    idle: ClassVar[str] = "no document is in the prompt"

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of every document, weighted with the strength."""
        return [(span, self.strength) for span in spans.documents]


@dataclass(frozen=True)
class HardMask:
    """Hide documents of low relevance from the question, or leave them out of the prompt.

    The best document is never hidden. Where every lambda is 0 (a single document, or equal
    scores) there is nothing to prefer, and nothing is hidden.

    Attributes
    ----------
    threshold
        Documents with lambda below it are hidden; in [0, 1].
    mode
        ``"mask"``: rows of the question cannot attend to them. What later prompt tokens have read
        from them, and the decode steps, are untouched; ``"drop"``: they are not in the prompt at
        all, and the answer names them among its dropped documents.
    layers
        Layers to mask in. None: all of them, because a document that is masked in one layer
        reaches the question through any other.
    question_rows
        As for `IFA`; for ``mode="mask"``.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    threshold: float = defaults.RELEVANCE_THRESHOLD
    mode: Literal["mask", "drop"] = "mask"
    layers: tuple[int, ...] | None = None
    question_rows: Literal["question", "to_end"] = "question"

    heads: ClassVar[None] = None
    every_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold!r}")
        if self.mode not in ("mask", "drop"):
            raise ValueError(f"mode must be 'mask' or 'drop', got {self.mode!r}")
        if self.question_rows not in ("question", "to_end"):
            raise ValueError(
                f"question_rows must be 'question' or 'to_end', got {self.question_rows!r}"
            )
        if self.mode == "drop" and self.layers is not None:
            raise ValueError("layers have no meaning for mode='drop': leave them None")
        object.__setattr__(self, "layers", checked_layers(self.layers))

    @property
    def is_off(self) -> bool:
        """Whether attention is left alone: ``"drop"`` acts before the prompt is built."""
        return self.mode == "drop"

    @property
    def idle(self) -> str:
        """Why nothing is masked."""
        return f"no document has a relevance below {self.threshold:g}"

    def hidden(self, lambdas: Sequence[float]) -> list[bool]:
        """Tell which documents are hidden.

        Examples
        --------
        >>> HardMask(threshold=0.5).hidden([1.0, 0.2, 0.5])
        [False, True, False]
        >>> HardMask(threshold=0.5).hidden([0.0, 0.0])
        [False, False]
        """
        best = max(lambdas, default=0.0)
        return [value < self.threshold and value < best for value in lambdas]

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Replace the logits of weighted columns by the lowest finite number.

        Examples
        --------
        >>> weights = torch.tensor([1.0, 0.0])
        >>> HardMask().steer(torch.tensor([3.0, -1.0]), weights).softmax(-1).tolist()
        [0.0, 1.0]
        """
        return torch.where(weights > 0, torch.finfo(logits.dtype).min, logits)

    def default_layers(self, depth: int) -> tuple[int, ...]:
        """All layers."""
        return tuple(range(depth))

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Rows of the question, or from its start to the end of the prompt."""
        start, stop = spans.question
        return start, spans.length if self.question_rows == "to_end" else stop

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of the hidden documents."""
        if self.mode == "drop":
            return []
        pairs = zip(spans.documents, self.hidden(lambdas), strict=True)
        return [(span, 1.0) for span, hidden in pairs if hidden]


@dataclass(frozen=True)
class PASTA:
    """Highlight the relevant documents by scaling attention to all else down.

    ``A_ij * alpha / C_i`` for columns `j` outside the highlighted set, ``A_ij / C_i`` inside, with
    ``C_i`` so that a row sums to 1 (PASTA, Zhang et al., ICLR 2024): the same as adding log(alpha)
    to the logits of the columns outside. The set is every document with lambda at or above the
    threshold; outside is the rest of the prompt. Generated tokens keep their logits.

    Two things differ from the original. Its rows are all rows; here they are those from the
    question on, and every decode step, so that image and documents may be prefilled once for
    all policies. Its heads come from a profile of about 1,000 examples per task; here they are
    all heads of the critical layers unless named.

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

    Raises
    ------
    ValueError
        If a field is out of range, or `layers` are not those of `heads`.
    """

    alpha: float = defaults.PASTA_ALPHA
    threshold: float = defaults.RELEVANCE_THRESHOLD
    layers: tuple[int, ...] | None = None
    heads: Mapping[int, tuple[int, ...]] | None = None

    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {self.alpha!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold!r}")
        layers = checked_layers(self.layers)
        if self.heads is not None:
            named = _Heads({layer: tuple(chosen) for layer, chosen in self.heads.items()})
            if not named or any(not chosen or min(chosen) < 0 for chosen in named.values()):
                raise ValueError(f"heads must name heads >= 0 for each layer, got {self.heads!r}")
            if layers is not None and set(layers) != set(named):
                raise ValueError(
                    f"layers {layers!r} are not those of heads, {tuple(named)!r}: leave layers None"
                )
            layers = checked_layers(tuple(named))
            object.__setattr__(self, "heads", named)
        object.__setattr__(self, "layers", layers)

    @property
    def is_off(self) -> bool:
        """Whether alpha is 1."""
        return self.alpha == 1

    @property
    def idle(self) -> str:
        """Why nothing is highlighted."""
        return f"no document has a relevance of {self.threshold:g} or more"

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

    def default_layers(self, depth: int) -> None:
        """Take the critical layers of the model's profile."""
        return None

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Rows from the question to the end of the prompt."""
        return spans.question[0], spans.length

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Every column of the prompt outside the highlighted documents; none if there are none."""
        pairs = zip(spans.documents, lambdas, strict=True)
        inside = [span for span, value in pairs if value >= self.threshold]
        if not inside or self.is_off:
            return []
        edges = [0, *(edge for span in inside for edge in span), spans.length]
        outside = zip(edges[::2], edges[1::2], strict=True)
        return [((start, stop), 1.0) for start, stop in outside if start < stop]


class _Heads(dict[int, tuple[int, ...]]):
    """Heads by layer, as a value: hashable, so that a policy can be a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))
