"""The hard mask: documents of low relevance are hidden, or left out of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.policy import Layers, QuestionRows, SteeringPolicy, Weighted
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class HardMask(SteeringPolicy):
    """Hide documents of low relevance from the question, or leave them out of the prompt.

    The best document is never hidden. Where every lambda is 0 (a single document, or equal
    scores) there is nothing to prefer, and nothing is hidden.

    Attributes
    ----------
    threshold
        Documents with lambda below it are hidden; in [0, 1].
    mode
        ``"mask"``: the steered rows cannot attend to them. What stands before the question has
        read them, and the decode steps do unless `every_step`; ``"drop"``: they are not in the
        prompt at all, and the answer names them among its dropped documents. Where not all
        documents fit into the model's window, ``"drop"`` chooses before the fit, so as to make room
        for relevant ones, and ``"mask"`` among those that fit: the two may then choose differently.
    layers
        Layers to mask in. None: all of them, because a document that is masked in one layer
        reaches the question through any other.
    question_rows
        As for `IFA`; for ``mode="mask"``.
    every_step
        As for `IFA`; for ``mode="mask"``.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    threshold: float = defaults.RELEVANCE_THRESHOLD
    mode: Literal["mask", "drop"] = "mask"
    layers: Layers | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS
    every_step: bool = defaults.EVERY_STEP

    tuned: ClassVar[str] = "threshold"
    three_values: ClassVar[tuple[float, float, float]] = (0.25, 0.5, 0.75)
    four_values: ClassVar[tuple[float, ...]] = (0.2, 0.4, 0.6, 0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold!r}")
        if self.mode not in ("mask", "drop"):
            raise ValueError(f"mode must be 'mask' or 'drop', got {self.mode!r}")
        if self.mode == "drop" and self.layers is not None:
            raise ValueError("layers have no meaning for mode='drop': leave them None")
        if self.mode == "drop" and self.every_step:
            raise ValueError("every_step has no meaning for mode='drop': leave it False")

    @property
    def is_off(self) -> bool:
        """Whether attention is left alone: ``"drop"`` acts before the prompt is built."""
        return self.mode == "drop"

    @property
    def idle(self) -> str:
        """Why nothing is masked."""
        return f"no document has a lambda below {self.threshold:g}"

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

    def default_layers(self, depth: int) -> Layers:
        """All layers."""
        return tuple(range(depth))

    def leaves_out(self, lambdas: Sequence[float]) -> list[bool]:
        """Tell which documents are not in the prompt: the hidden ones, if they are dropped."""
        return self.hidden(lambdas) if self.mode == "drop" else super().leaves_out(lambdas)

    def attention_only(self) -> HardMask:
        """Mask what would be dropped."""
        return replace(self, mode="mask")

    def grid(self, layer_sets: Sequence[Layers]) -> list[HardMask]:
        """Mask in all sets but the last; in its place, drop."""
        masked = replace(self, mode="mask")
        return [masked.at(v, layers) for layers in layer_sets[:-1] for v in self.four_values] + [
            replace(self, threshold=v, layers=None, mode="drop", every_step=False)
            for v in self.four_values
        ]

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of the hidden documents."""
        if self.mode == "drop":
            return []
        pairs = zip(spans.documents, self.hidden(lambdas), strict=True)
        return [(span, 1.0) for span, hidden in pairs if hidden]
