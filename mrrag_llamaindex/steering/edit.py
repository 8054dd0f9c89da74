"""What a policy changes beside attention logits: outputs of heads, or keys before they are used.

An edit belongs to one call, as the plan that carries it. In a steered layer it takes the place of
the formula: attention runs plainly, and `apply` is given its output, the same in every backend.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.window import RowWindow


class Edit:
    """A change of one call that is no formula on logits; the base class changes nothing."""

    def around(
        self,
        model: Any,
        layers: Collection[int],
        weights: torch.Tensor,
        past: int,
        look: Callable[[], object],
    ) -> contextlib.AbstractContextManager[None]:
        """Return what the call runs within.

        Parameters
        ----------
        model : PreTrainedModel
        layers : collection of int
            Those of the plan.
        weights : torch.Tensor
            float32 (batch, prompt tokens), the plan's weight of each column.
        past : int
            Tokens in the cache of the call.
        look : callable
            Runs the same call plainly, without its cache.
        """
        return contextlib.nullcontext()

    def apply(self, output: torch.Tensor, window: RowWindow, layer: int) -> None:
        """Change the outputs of the steered rows in place, before they are projected.

        Parameters
        ----------
        output : torch.Tensor
            (batch, rows, heads, dim), of plain attention.
        window : RowWindow
            Which of its rows are steered.
        layer : int
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class RowMix(Edit):
    """Mix the output of each steered row with that of an earlier one.

    ``O_i = (1 - share) * O_i + share * O_{i - distance}``, for all heads.

    Attributes
    ----------
    share : float
        In [0, 1].
    distance : tuple of int
        Rows between the two, for each prompt of the batch.
    """

    share: float
    distance: tuple[int, ...]

    def apply(self, output: torch.Tensor, window: RowWindow, layer: int) -> None:
        """Mix, see `Edit.apply`.

        Raises
        ------
        SteeringError
            If an earlier row is not in the call.
        """
        distance = torch.tensor(self.distance, device=output.device)[window.batch][:, None]
        sources = window.rows - distance
        if bool((sources < 0).any()):
            raise SteeringError(
                "rows are to be mixed with earlier ones that are not in this call; prefill the "
                "prompt in one call, without a shared prefix"
            )
        batch = window.batch[:, None]
        # A mix reads every row as it was: sources lie before all rows that are changed.
        mixed = torch.lerp(output[batch, window.rows], output[batch, sources], self.share)
        output[batch, window.rows] = mixed


@dataclass(frozen=True, eq=False)
class HeadShift(Edit):
    """Add a vector to the output of some heads, in the steered rows.

    Attributes
    ----------
    vectors : mapping of int to torch.Tensor
        By layer, float32 (heads, dim); 0 for a head that is left alone.
    """

    vectors: Mapping[int, torch.Tensor]

    def apply(self, output: torch.Tensor, window: RowWindow, layer: int) -> None:
        """Add the layer's vectors, see `Edit.apply`."""
        batch = window.batch[:, None]
        # Rows of a window may repeat the last of a shorter list: assigned, not added up.
        output[batch, window.rows] = output[batch, window.rows] + self.vectors[layer].to(output)
