"""Policies that act by an edit alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mrrag_llamaindex.steering.edit import Edit
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class EditingPolicy(SteeringPolicy):
    """A policy without a formula: it changes keys or outputs, by a strength that may be 0."""

    @property
    def is_off(self) -> bool:
        """Whether the field `tuned` is 0."""
        return bool(getattr(self, self.tuned) == 0)

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Leave the logits as they are."""
        return logits

    @abstractmethod
    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> Edit:
        """Return the edit of a batch, see `SteeringPolicy.edit`."""
