"""SEKA: keys of the relevant documents are moved along directions that relevance had elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.key_edit import KeyEdit
from mrrag_llamaindex.steering.policies.editing import EditingPolicy
from mrrag_llamaindex.steering.policy import (
    Layers,
    QuestionRows,
    Weighted,
    require_finite,
)
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.tensor_value import TensorValue


@dataclass(frozen=True)
class KeyPolicy(EditingPolicy):
    """What SEKA and AdaSEKA have in common: whose keys are edited, and in which layers.

    Attributes
    ----------
    gain
        Factor on what is added to a key, at least 0; 0 switches it off.
    threshold
        Least lambda of a highlighted document, in (0, 1], as for `PASTA`.
    layers
        None: the last ones, 10 of 36 as published, see `defaults.SEKA_LAYER_SHARE`.
    question_rows
        Has no effect: keys are edited, whatever row looks at them.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    gain: float = 1.0
    threshold: float = defaults.RELEVANCE_THRESHOLD
    layers: Layers | None = None
    question_rows: QuestionRows = defaults.QUESTION_ROWS

    shares_prefix: ClassVar[bool] = False
    tuned: ClassVar[str] = "gain"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("gain", self.gain, 0)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold!r}")

    @property
    def idle(self) -> str:
        """Why no key is edited."""
        return f"no document has a lambda of {self.threshold:g} or more"

    def default_layers(self, depth: int) -> Layers:
        """Return the last layers, as many as published for the depth.

        Examples
        --------
        >>> KeyPolicy.default_layers(None, 4), len(KeyPolicy.default_layers(None, 32))
        ((3,), 9)
        """
        count = max(1, round(defaults.SEKA_LAYER_SHARE * depth))
        return tuple(range(depth - count, depth))

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of the highlighted documents, whose keys are edited."""
        if self.is_off:
            return []
        pairs = zip(spans.documents, lambdas, strict=True)
        return [(span, 1.0) for span, value in pairs if value >= self.threshold]


class KeyProjections(TensorValue):
    """Projections by layer and key head.

    Parameters
    ----------
    relevant, irrelevant : torch.Tensor
        (layers, key heads, dim, dim): P+ and P-, symmetric.
    """

    def __init__(self, relevant: torch.Tensor, irrelevant: torch.Tensor) -> None:
        if relevant.ndim != 4 or relevant.shape != irrelevant.shape:
            raise ValueError(
                "projections must both be (layers, key heads, dim, dim), got "
                f"{tuple(relevant.shape)} and {tuple(irrelevant.shape)}"
            )
        super().__init__(relevant=relevant, irrelevant=irrelevant)


@dataclass(frozen=True)
class SEKA(KeyPolicy):
    """Spectral editing of keys: more of what keys of relevant text have, before rotation.

    ``k' = k + (g+ P+ k + g- P- k) / 2`` for the keys of highlighted tokens, in each layer and key
    head (SEKA, Li et al., arXiv 2603.01281). With H, H+ and H- the keys of the same text read
    alone, behind a question that it answers and behind one that it does not, P+ projects onto the
    first left singular vectors of ``H^T H+ / n``, as many as hold a share of the sum of singular
    values, and P- onto the others of ``H^T H- / n``; see
    `mrrag_llamaindex.evaluation.methods.probing.keys`.

    Formula, the half in it, gains .8 and .2 and the last ten layers are those of the authors'
    code. Ours: ten layers are taken as a share of the depth; highlighted are whole documents, by
    lambda, where theirs are the words that a person marks; no head is left out (their least
    difference between H+ and H- is tuned for each model).

    Its keys stand before the question: no prefix is shared.

    Attributes
    ----------
    projections
        Learned on other patients, by layer of the model.
    gain
        g+ of the relevant projection, at least 0; 0 switches it off.
    negative_gain
        g-, at least 0.
    threshold, layers, question_rows
        As for `KeyPolicy`.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    projections: KeyProjections | None = None
    gain: float = defaults.SEKA_GAIN
    negative_gain: float = defaults.SEKA_NEGATIVE_GAIN

    three_values: ClassVar[tuple[float, float, float]] = (0.4, 0.8, 1.6)
    four_values: ClassVar[tuple[float, ...]] = (0.4, 0.8, 1.6, 3.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("negative_gain", self.negative_gain, 0)
        if self.projections is None:
            raise ValueError("projections must be given: SEKA learns them on other patients")

    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> KeyEdit:
        """Return the edit of a batch."""
        learned = self.projections
        assert learned is not None

        def maps(model: Any, layers: Collection[int], look: object) -> dict[int, torch.Tensor]:
            check_depth(learned["relevant"], layers)
            both = self.gain * learned["relevant"] + self.negative_gain * learned["irrelevant"]
            return {layer: both[layer][None] / 2 for layer in layers}

        return KeyEdit(maps)


def check_depth(learned: torch.Tensor, layers: Collection[int]) -> None:
    """Raise a `SteeringError` if a layer is beyond those that something was learned for."""
    depth = learned.shape[0]
    if beyond := [layer for layer in layers if layer >= depth]:
        raise SteeringError(
            f"layers {beyond} are to be steered, and the policy was learned on a model of {depth} "
            "layers: it is of another model"
        )
