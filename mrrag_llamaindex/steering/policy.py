"""What a steering policy is: a formula, where in a prompt it acts, and what is particular to it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Protocol, TypeVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.steering.edit import Edit
from mrrag_llamaindex.steering.spans import PromptSpans

Layers = tuple[int, ...]
QuestionRows = Literal["question", "to_end"]

Weighted = tuple[tuple[int, int], float]
"""A token span (start, stop) of columns, and the weight of each of them."""

PolicyT = TypeVar("PolicyT", bound="SteeringPolicy")
V = TypeVar("V")


class Formula(Protocol):
    """What happens to a steered logit. A plan says where; the backend does the rest."""

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Turn raw logits (..., rows, columns) into new ones; `weights` broadcasts to them.

        They are scaled dot products before any mask. The mask comes afterwards, so a formula can
        never un-mask a cell. Where a weight is 0 the logit must stay as it is: so does every column
        that the plan does not name.
        """
        ...


class SteeringPolicy(ABC):
    """A way to steer attention: a frozen dataclass that validates itself and can be a key.

    Everything that is particular to a policy is a field, a method or a class variable of it, so
    that no code outside of `mrrag_llamaindex.steering.policies` asks which one it holds. A new
    policy is one file there, and one row of `mrrag_llamaindex.steering.policies.registry`.

    Attributes
    ----------
    layers
        Decoder layers to steer; None for those of `default_layers`.
    question_rows
        ``"question"``: the question's own tokens, the letter of the paper; ``"to_end"``: also
        those after it, up to the end of the prompt, see `defaults.QUESTION_ROWS`.
    heads
        Query heads by layer; None for all heads of every layer.
    guidance
        Factor of contrastive guidance by the image, see `generation.decoding.guidance`; 1 is none.
    every_step
        Whether the rows of generated tokens are steered, too: each reads the documents anew, and
        what a long answer says is read off them, see `defaults.EVERY_STEP`. A field of every
        policy of the registry.
    needs_image
        Whether a prompt without an image is an error.
    reads_lambdas
        Whether the lambdas of the documents make a difference.
    shares_prefix
        Whether all that stands before the question is as without the policy, so that it may be
        prefilled once, and its cache reused.
    asks_twice
        Whether the question stands before the documents, too.
    checks_reach
        Whether to warn of documents that a sliding window hides from the question.
    idle
        Why a prompt without any column to steer is left alone, in words.
    tuned
        The field by which the policy is tuned, beside its layers.
    three_values
        Values of it that ``mrrag noise`` tries: the published or default one between two others.
    four_values
        Those that ``mrrag eval`` tries; empty for a policy that runs as published.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    layers: Layers | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS
    heads: Mapping[int, tuple[int, ...]] | None = None
    guidance: float = 1.0
    every_step: bool = False

    needs_image: ClassVar[bool] = False
    reads_lambdas: ClassVar[bool] = True
    checks_reach: ClassVar[bool] = False
    shares_prefix: ClassVar[bool] = True
    asks_twice: ClassVar[bool] = False

    tuned: ClassVar[str]
    three_values: ClassVar[tuple[float, float, float]]
    four_values: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        if self.question_rows not in ("question", "to_end"):
            raise ValueError(
                f"question_rows must be 'question' or 'to_end', got {self.question_rows!r}"
            )
        if not isinstance(self.every_step, bool):
            raise ValueError(f"every_step must be True or False, got {self.every_step!r}")

    @abstractmethod
    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Apply the formula, see `Formula`."""

    @abstractmethod
    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns to steer, with their weights; `lambdas` has one value per document."""

    def in_layer(self, layer: int) -> Formula:
        """Return the formula in one layer; the same in all, unless the policy says otherwise."""
        return self

    @property
    @abstractmethod
    def is_off(self) -> bool:
        """Whether no attention is changed at all, whatever the prompt."""

    @property
    @abstractmethod
    def idle(self) -> str:
        """Why a prompt without any column to steer is left alone, in words."""

    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> Edit | None:
        """Return what takes the place of `steer` for one batch of prompts; None: nothing does.

        Parameters
        ----------
        spans, lambdas
            One of each per prompt.

        Raises
        ------
        SteeringError
            If a prompt cannot be steered so.
        """
        return None

    def rows(self, spans: PromptSpans) -> tuple[int, int]:
        """Prompt rows to steer, as one span (start, stop) at or behind the question's start."""
        start, stop = spans.question
        return start, spans.length if self.question_rows == "to_end" else stop

    @property
    def rows_name(self) -> str:
        """What `rows` are, in a word, for traces."""
        return self.question_rows

    def default_layers(self, depth: int) -> Layers | None:
        """Layers of a model with `depth` of them; None for the critical layers of its profile."""
        return None

    def leaves_out(self, lambdas: Sequence[float]) -> list[bool]:
        """Tell for each document whether it is kept out of the prompt."""
        return [False] * len(lambdas)

    def attention_only(self: PolicyT) -> PolicyT:
        """Return the policy without what it does outside of attention (prompt, decoding)."""
        return self

    def at(self: PolicyT, value: float, layers: Layers) -> PolicyT:
        """Return the policy with another value of the field `tuned`, and other layers."""
        return replace(self, **{self.tuned: value, "layers": layers})  # type: ignore[type-var]

    def grid(self: PolicyT, layer_sets: Sequence[Layers]) -> list[PolicyT]:
        """Return the settings that ``mrrag eval`` tries, the policy as it is if it has none.

        Parameters
        ----------
        layer_sets
            Places to steer, by how likely they are; every policy has as many settings.
        """
        return [self.at(v, layers) for layers in layer_sets for v in self.four_values] or [self]


def checked_layers(layers: Sequence[int] | None) -> Layers | None:
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


def require_finite(name: str, value: float, least: float) -> None:
    """Check a number of a policy.

    Raises
    ------
    ValueError
        If it is not finite, or below `least`.
    """
    if not least <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number >= {least:g}, got {value!r}")


class ByLayer(dict[int, V]):
    """A mapping from layers that is a value: hashable, so that a policy can be a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def checked_heads(heads: Mapping[int, tuple[int, ...]]) -> ByLayer[tuple[int, ...]]:
    """Read the field ``heads`` of a policy.

    Raises
    ------
    ValueError
        Unless it names heads >= 0 for at least one layer, and for each one it names.
    """
    named = ByLayer({layer: tuple(of_layer) for layer, of_layer in heads.items()})
    if not named or any(not of_layer or min(of_layer) < 0 for of_layer in named.values()):
        raise ValueError(f"heads must name heads >= 0 for each layer, got {heads!r}")
    return named


def checked_factors(factors: Mapping[int, float]) -> ByLayer[float]:
    """Read the field ``by_layer`` of a policy.

    Raises
    ------
    ValueError
        Unless it holds a finite number above 0 for at least one layer.
    """
    named = ByLayer({layer: float(factor) for layer, factor in factors.items()})
    if not named or any(not 0 < factor < math.inf for factor in named.values()):
        raise ValueError(
            f"by_layer must hold a finite factor above 0 for each layer, got {factors!r}: leave a "
            "layer out rather than give it 0"
        )
    return named


def layers_of(layers: Layers | None, **fields: Mapping[int, object] | None) -> Layers | None:
    """Return the layers that fields of a policy name; all must name the same ones.

    Parameters
    ----------
    layers
        The policy's own, None for those of the fields.
    **fields
        Mappings from layers by the names of their fields; None where one is not given.

    Raises
    ------
    ValueError
        If two of them differ.

    Examples
    --------
    >>> layers_of(None, heads={3: (0,), 1: (2,)}, by_layer=None)
    (3, 1)
    """
    for name, mapping in fields.items():
        if mapping is None:
            continue
        if layers is not None and set(layers) != set(mapping):
            raise ValueError(
                f"layers {layers!r} are not those of {name}, {tuple(mapping)!r}: name the same "
                "layers, or leave layers None"
            )
        layers = tuple(mapping) if layers is None else layers
    return layers
