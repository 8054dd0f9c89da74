"""What a steering policy is: a formula, and where in a prompt it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from mrrag_llamaindex.steering.spans import PromptSpans

Weighted = tuple[tuple[int, int], float]
"""A token span (start, stop) of columns, and the weight of each of them."""


class Policy(Protocol):
    """A steering formula. The plan says where it acts, the backend does the rest."""

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Turn raw logits (..., rows, columns) into new ones; `weights` broadcasts to them.

        The mask comes afterwards, so a formula can never un-mask a cell. Where a weight is 0 the
        logit must stay as it is: so does every column that the plan does not name.
        """
        ...


class PromptPolicy(Policy, Protocol):
    """A policy that knows which rows and columns of a prompt are its own."""

    @property
    def layers(self) -> tuple[int, ...] | None:
        """Decoder layers that the caller named; None for those of `default_layers`."""
        ...

    @property
    def heads(self) -> Mapping[int, tuple[int, ...]] | None:
        """Query heads by layer; None for all heads of every layer."""
        ...

    @property
    def every_step(self) -> bool:
        """Whether the rows of generated tokens are steered too, not those of the prompt only."""
        ...

    @property
    def is_off(self) -> bool:
        """Whether the formula changes no attention at all, whatever the prompt."""
        ...

    @property
    def idle(self) -> str:
        """Why a prompt without any column to steer is left alone, in words."""
        ...

    def default_layers(self, depth: int) -> tuple[int, ...] | None:
        """Layers of a model with `depth` of them; None for the critical layers of its profile."""
        ...

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Prompt rows to steer, as one span (start, stop) at or behind the question's start."""
        ...

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns to steer, with their weights; `lambdas` has one value per document."""
        ...


def checked_layers(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    """Read the field ``layers`` of a policy.

    Raises
    ------
    ValueError
        Unless it is None or holds at least one index, each >= 0 and named once.
    """
    if layers is None:
        return None
    layers = tuple(layers)
    if not layers or any(isinstance(i, bool) or not isinstance(i, int) for i in layers):
        raise ValueError(f"layers must be None or a non-empty tuple of int, got {layers!r}")
    if min(layers) < 0 or len(set(layers)) != len(layers):
        raise ValueError(f"layers must be distinct and >= 0, got {layers!r}")
    return layers
