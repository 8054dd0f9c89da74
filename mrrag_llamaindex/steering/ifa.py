"""IFA, the method: how relevance becomes lambda, and how lambda changes an attention logit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.policy import (
    Formula,
    Layers,
    QuestionRows,
    SteeringPolicy,
    Weighted,
    checked_factors,
    checked_heads,
    checked_layers,
    layers_of,
    require_finite,
)
from mrrag_llamaindex.steering.spans import PromptSpans


def min_max_lambdas(scores: Sequence[float | None]) -> tuple[float, ...]:
    """Min-max normalise the relevance scores of one question's documents.

    ``lambda_k = (s_k - s_min) / (s_max - s_min)`` over the documents that have a score
    (MR-RAG, Li et al., CVPR 2026, IFA). The paper leaves 0/0 open; here a single scored
    document, or equal scores, gives 0 for every document: there is nothing to prefer.

    Parameters
    ----------
    scores
        One MCR score per document, in prompt order. ``None`` marks a document whose
        relevance is unknown; it gets 0 and takes no part in the minimum or maximum.

    Returns
    -------
    tuple of float
        One value in [0, 1] per document.

    Raises
    ------
    SteeringError
        If a score is NaN or infinite.

    Examples
    --------
    >>> min_max_lambdas([1.0, None, 3.0, 2.0])
    (0.0, 0.0, 1.0, 0.5)
    >>> min_max_lambdas([0.7])
    (0.0,)
    """
    for position, score in enumerate(scores):
        if score is not None and not math.isfinite(score):
            raise SteeringError(
                f"document {position}: the relevance score is {score}, not a finite number; "
                "compare the towers and fusion weights that produced it"
            )
    known = [score for score in scores if score is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    if high == low:
        return (0.0,) * len(scores)
    return tuple(0.0 if score is None else (score - low) / (high - low) for score in scores)


@dataclass(frozen=True)
class Raised:
    """The formula of `IFA` with a factor on every weight."""

    factor: float

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Apply it, see `Formula`."""
        return torch.addcmul(logits, weights, logits.abs(), value=self.factor)


@dataclass(frozen=True)
class IFA(SteeringPolicy):
    """Raise the attention of question tokens to relevant documents, by how relevant they are.

    ``A'_ij = A_ij + lambda_ij * |A_ij|`` on the logits before mask and softmax, for rows `i` of
    the question and columns `j` of a document, in the critical layers (MR-RAG, IFA).

    Attributes
    ----------
    strength
        Factor on lambda, at least 0. 1 is the paper's formula, 0 switches steering off.
    layers
        Indices of the decoder layers to steer; ``None`` takes the model's own profile.
    question_rows
        ``"question"`` steers the question's own tokens; ``"to_end"`` also those after it, up to
        the end of the prompt.
    image
        Lambda of the query image, in [0, 1]: it is raised as a document of that relevance is,
        wherever a document is steered, so that raising documents does not starve it. 0 is the
        paper's formula, see `defaults.IMAGE_LAMBDA`.
    every_step
        Whether the rows of the answer's own tokens are steered as well, each as it is generated.
        False is the paper's formula, see `defaults.EVERY_STEP`.
    by_layer
        Factor on `strength` in each layer, ``{layer: factor}``; None for 1 in all of them. Where
        it is given, its layers are those that are steered.
    heads
        Query heads by layer, ``{layer: (head, ...)}``; None for all heads.

    Raises
    ------
    ValueError
        If a field is out of range, or `layers`, `by_layer` and `heads` name other layers.
    """

    strength: float = defaults.STRENGTH
    layers: Layers | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS
    image: float = defaults.IMAGE_LAMBDA
    every_step: bool = defaults.EVERY_STEP
    by_layer: Mapping[int, float] | None = None
    heads: Mapping[int, tuple[int, ...]] | None = None

    idle: ClassVar[str] = "no document has a lambda above zero"
    checks_reach: ClassVar[bool] = True
    tuned: ClassVar[str] = "strength"
    three_values: ClassVar[tuple[float, float, float]] = (0.5, 1.0, 2.0)
    four_values: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("strength", self.strength, 0)
        if not 0 <= self.image <= 1:
            raise ValueError(f"image must be in [0, 1], got {self.image!r}")
        if self.by_layer is not None:
            object.__setattr__(self, "by_layer", checked_factors(self.by_layer))
        if self.heads is not None:
            object.__setattr__(self, "heads", checked_heads(self.heads))
        layers = layers_of(self.layers, by_layer=self.by_layer, heads=self.heads)
        object.__setattr__(self, "layers", checked_layers(layers))

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Apply the formula, see `Formula`; the weights are strength times lambda.

        Examples
        --------
        >>> IFA().steer(torch.tensor([2.0, -2.0, 4.0]), torch.tensor([0.5, 0.5, 0.0])).tolist()
        [3.0, -1.0, 4.0]
        """
        return torch.addcmul(logits, weights, logits.abs())

    def in_layer(self, layer: int) -> Formula:
        """Return the formula with the strength of one layer.

        Examples
        --------
        >>> ifa = IFA(by_layer={2: 0.5, 3: 1.0})
        >>> ifa.in_layer(2).steer(torch.tensor([2.0, -2.0]), torch.tensor([1.0, 1.0])).tolist()
        [3.0, -1.0]
        """
        factor = 1.0 if self.by_layer is None else self.by_layer.get(layer, 1.0)
        return self if factor == 1 else Raised(factor)

    @property
    def is_off(self) -> bool:
        """Whether the strength is 0."""
        return self.strength == 0

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of every document with a lambda above 0, weighted strength times lambda.

        Examples
        --------
        With ``image=0.5`` the image is a document of lambda one half, beside documents only:

        >>> spans = PromptSpans(((4, 6), (6, 9)), question=(9, 11), length=11, image=(1, 3))
        >>> IFA(strength=2.0, image=0.5).columns(spans, [0.0, 1.0])
        [((6, 9), 2.0), ((1, 3), 1.0)]
        >>> IFA(strength=2.0, image=0.5).columns(spans, [0.0, 0.0])
        []
        """
        pairs = zip(spans.documents, lambdas, strict=True)
        weighted = [(span, self.strength * value) for span, value in pairs if value > 0]
        return self.with_image(spans, weighted)

    def with_image(self, spans: PromptSpans, weighted: list[Weighted]) -> list[Weighted]:
        """Add the columns of the image to those of documents, if it has a lambda and they exist."""
        if not weighted or spans.image is None or self.image == 0:
            return weighted
        return [*weighted, (spans.image, self.strength * self.image)]
