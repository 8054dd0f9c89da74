"""ITI: heads whose output tells right answers from wrong ones are shifted towards the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.edit import HeadShift
from mrrag_llamaindex.steering.policies.editing import EditingPolicy
from mrrag_llamaindex.steering.policy import (
    Layers,
    QuestionRows,
    Weighted,
    require_finite,
)
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.tensor_value import TensorValue


class HeadDirections(TensorValue):
    """Where the output of each head of a model points when the answer is right.

    Parameters
    ----------
    shifts : torch.Tensor
        (layers, heads, dim): sigma times the unit vector from the mean output with wrong answers to
        that with right ones.
    accuracy : torch.Tensor
        (layers, heads): of a probe on patients that it was not fitted to.
    """

    def __init__(self, shifts: torch.Tensor, accuracy: torch.Tensor) -> None:
        if shifts.ndim != 3 or accuracy.shape != shifts.shape[:2]:
            raise ValueError(
                "shifts must be (layers, heads, dim) and accuracy (layers, heads), got "
                f"{tuple(shifts.shape)} and {tuple(accuracy.shape)}"
            )
        super().__init__(shifts=shifts, accuracy=accuracy)

    @property
    def count(self) -> int:
        """Heads of the model."""
        return self["accuracy"].numel()

    def best(self, count: int) -> list[tuple[int, int]]:
        """Return the heads of the most accurate probes, (layer, head); of equal ones the first."""
        order = self["accuracy"].flatten().argsort(descending=True, stable=True)[:count]
        return [divmod(int(place), self["accuracy"].shape[1]) for place in order]


@dataclass(frozen=True)
class ITI(EditingPolicy):
    """Inference-time intervention: add ``alpha * sigma * theta`` to the outputs of some heads.

    In the row that gives the next token, at every step, before the outputs are projected. For each
    head, theta is the unit vector from its mean output at the end of a wrong answer to that of a
    right one, and sigma the standard deviation of its outputs along theta; the heads are those
    whose outputs a logistic probe tells apart best on other patients (ITI, Li et al., NeurIPS
    2023). See `mrrag_llamaindex.evaluation.methods.probing.heads` for how they are learned.

    Published: alpha 15 and 48 of 1,024 heads (LLaMA-7B). Here the heads are as large a share of the
    model's. Theirs are pairs of question and answer of TruthfulQA; here prompts with image and
    documents, answered yes and no. Documents and lambdas play no part.

    Attributes
    ----------
    directions
        Learned on other patients.
    alpha
        At least 0; 0 switches it off.
    heads_shifted
        Number of heads; None: `defaults.ITI_HEAD_SHARE` of the model's, one at least.
    layers
        None, always: the heads say which.
    question_rows
        Has no effect: the answering rows are shifted.
    every_step
        False shifts the prompt's last row alone; True is the original.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    directions: HeadDirections | None = None
    alpha: float = defaults.ITI_ALPHA
    heads_shifted: int | None = None
    layers: Layers | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS
    every_step: bool = True

    idle: ClassVar[str] = "alpha is 0"
    reads_lambdas: ClassVar[bool] = False
    tuned: ClassVar[str] = "alpha"
    three_values: ClassVar[tuple[float, float, float]] = (7.5, 15.0, 30.0)
    four_values: ClassVar[tuple[float, ...]] = (1.0, 5.0, 15.0, 30.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("alpha", self.alpha, 0)
        if self.directions is None:
            raise ValueError("directions must be given: ITI learns them on other patients")
        if self.layers is not None:
            raise ValueError("layers must be None: the heads say in which layers ITI acts")
        if self.heads_shifted is None:
            share = round(defaults.ITI_HEAD_SHARE * self.directions.count)
            object.__setattr__(self, "heads_shifted", max(1, share))
        if not 1 <= self._count <= self.directions.count:
            raise ValueError(
                f"heads_shifted must be 1 to {self.directions.count}, got {self.heads_shifted!r}"
            )

    @property
    def _count(self) -> int:
        return self.heads_shifted or 0

    @property
    def _directions(self) -> HeadDirections:
        assert self.directions is not None
        return self.directions

    def default_layers(self, depth: int) -> Layers:
        """Layers of the heads that are shifted."""
        return tuple(sorted({layer for layer, _ in self._directions.best(self._count)}))

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Return the prompt's last row."""
        return spans.length - 1, spans.length

    @property
    def rows_name(self) -> str:
        """The prompt's last row."""
        return "last"

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Return the last token's column: a row is steered for its own sake."""
        return [] if self.is_off else [((spans.length - 1, spans.length), self.alpha)]

    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> HeadShift:
        """Return the shifts, of any batch."""
        shifts = self._directions["shifts"]
        vectors: dict[int, torch.Tensor] = {}
        for layer, head in self._directions.best(self._count):
            chosen = vectors.setdefault(layer, torch.zeros_like(shifts[layer]))
            chosen[head] = self.alpha * shifts[layer, head]
        return HeadShift(vectors)

    def grid(self, layer_sets: Sequence[Layers]) -> list[ITI]:
        """Try 4 alphas with 3 numbers of heads: the published share, twice and four times that."""
        counts = [min(factor * self._count, self._directions.count) for factor in (1, 2, 4)]
        return [replace(self, alpha=a, heads_shifted=n) for n in counts for a in self.four_values]
