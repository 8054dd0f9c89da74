"""See where rows of a call look: the attention of some rows, summed over parts of the prompt.

The stock kernels return no attention. The rows that are asked about are few, so their attention is
computed beside the call, as the rows backend computes steered rows: after steering, mask and
softmax, mean over heads. What is watched is an argument of the call, like the plan that carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, eq=False)
class AttentionWatch:
    """What of one prompt is watched, and what was seen.

    For calls of one row of a batch, that run the watched rows in one piece.

    Parameters
    ----------
    rows : sequence of (start, stop)
        Groups of rows, as positions of the prompt: the question's for example, and the last row.
    parts : sequence of (start, stop)
        Groups of columns, in the same way: documents, image, question. They may be empty.
    layers : tuple of int
        Decoder layers that are watched.

    Attributes
    ----------
    seen : dict of int to torch.Tensor
        By layer, float64 (groups of rows, parts), on the CPU: mean over heads and rows of the sum
        of attention over the part's columns.
    """

    rows: Sequence[tuple[int, int]]
    parts: Sequence[tuple[int, int]]
    layers: tuple[int, ...]
    seen: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first row that is watched."""
        return min(start for start, _ in self.rows)

    @property
    def stop(self) -> int:
        """Position behind the last row that is watched."""
        return max(stop for _, stop in self.rows)

    def take(self, layer: int, attention: torch.Tensor, first: int) -> None:
        """Note what a layer's rows attend to.

        Parameters
        ----------
        layer : int
        attention : torch.Tensor
            (heads, rows, columns), after softmax.
        first : int
            Position in the prompt of its first row.
        """
        if layer not in self.layers:
            return
        mean = attention.double().mean(dim=0).cpu()
        sums = torch.stack([mean[:, slice(*part)].sum(dim=1) for part in self.parts], dim=1)
        groups = [sums[start - first : stop - first].mean(dim=0) for start, stop in self.rows]
        self.seen[layer] = torch.stack(groups)
