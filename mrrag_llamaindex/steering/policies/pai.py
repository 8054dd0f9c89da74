"""PAI, the policy on the image: the row that gives the next token attends to it more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.policy import Layers, SteeringPolicy, Weighted, require_finite
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class PAI(SteeringPolicy):
    """Pay attention to the image: raise the last row's attention to it, at every step.

    ``A_ij + alpha * |A_ij|`` for image columns `j` and the row `i` that gives the next token: the
    prompt's last one, then each decode step (PAI, Liu et al., ECCV 2024). With
    `guidance`, each step's log-probabilities `s` become ``g * (s - u) + u`` with `u` those of the
    prompt without its image, plainly attended; see `generation.decoding.guidance`.

    Attributes
    ----------
    alpha
        Factor on the magnitude of a logit, at least 0; 0 switches the attention part off.
    layers
        None: all but the lowest sixteenth, which is the original's 2 to 32 of 32 layers.
    guidance
        The factor g, at least 1; 1 switches guidance off. It doubles the forward passes.
    every_step
        False steers the prompt's last row alone; True is the original.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    alpha: float = defaults.PAI_ALPHA
    layers: Layers | None = None
    guidance: float = defaults.PAI_GUIDANCE
    every_step: bool = True

    idle: ClassVar[str] = "no image is in the prompt"
    needs_image: ClassVar[bool] = True
    reads_lambdas: ClassVar[bool] = False
    tuned: ClassVar[str] = "alpha"
    three_values: ClassVar[tuple[float, float, float]] = (0.1, 0.2, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("alpha", self.alpha, 0)
        require_finite("guidance", self.guidance, 1)

    @property
    def is_off(self) -> bool:
        """Whether alpha is 0."""
        return self.alpha == 0

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Apply the formula of `IFA` with the weights of the image."""
        return torch.addcmul(logits, weights, logits.abs())

    def default_layers(self, depth: int) -> Layers:
        """All but the lowest sixteenth."""
        return tuple(range(depth // 16, depth))

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Return the prompt's last row."""
        return spans.length - 1, spans.length

    def attention_only(self) -> PAI:
        """Do without guidance."""
        return replace(self, guidance=1.0)

    @property
    def rows_name(self) -> str:
        """The prompt's last row."""
        return "last"

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of the image, weighted with alpha."""
        return [] if spans.image is None else [(spans.image, self.alpha)]
