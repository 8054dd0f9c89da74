"""See where rows of a call look: the attention of some rows, summed over parts of the prompt.

The stock kernels return no attention. The rows that are asked about are few, so their attention is
computed beside the call, as the rows backend computes steered rows: after steering, mask and
softmax, mean over heads. What is watched is an argument of the call, like the plan that carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mrrag_llamaindex.steering.layout import place

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class AttentionWatch:
    """What of a batch of prompts is watched, and what was seen.

    For calls that run the watched rows in one piece. Positions are those of the padded batch:
    `over` lays spans of prompts onto it.

    Parameters
    ----------
    rows : sequence of sequence of (start, stop)
        For each prompt, groups of rows: the question's for example, and the last row.
    parts : sequence of sequence of sequence of slice
        For each prompt, groups of columns: documents, image, question. They may be empty.
    layers : tuple of int
        Decoder layers that are watched.

    Attributes
    ----------
    seen : dict of int to torch.Tensor
        By layer, float32 (prompts, groups of rows, parts), where the model is: mean over heads and
        rows of the sum of attention over the part's columns.
    """

    rows: Sequence[Sequence[Span]]
    parts: Sequence[Sequence[Sequence[slice]]]
    layers: tuple[int, ...]
    seen: dict[int, torch.Tensor] = field(default_factory=dict)
    _masks: dict[tuple[int, int, int], tuple[torch.Tensor, torch.Tensor]] = field(
        init=False, repr=False, default_factory=dict
    )

    @classmethod
    def over(
        cls,
        rows: Sequence[Sequence[Span]],
        parts: Sequence[Sequence[Span]],
        layers: tuple[int, ...],
        lengths: Sequence[int],
        shared: int = 0,
    ) -> AttentionWatch:
        """Lay groups of rows and parts of several prompts onto their batch.

        Parameters
        ----------
        rows, parts : sequence of sequence of (start, stop)
            For each prompt, in its own positions; rows stand behind the shared prefix.
        layers : tuple of int
        lengths : sequence of int
            Tokens of each prompt; the batch is as long as the longest.
        shared : int
            Tokens that all prompts share, before the padding.
        """
        padding = [max(lengths) - length for length in lengths]
        return cls(
            [[(a + pad, b + pad) for a, b in own] for own, pad in zip(rows, padding, strict=True)],
            [
                [place(span, pad, shared) for span in own]
                for own, pad in zip(parts, padding, strict=True)
            ],
            layers,
        )

    @property
    def first(self) -> int:
        """The first row that is watched."""
        return min(start for own in self.rows for start, _ in own)

    @property
    def stop(self) -> int:
        """Position behind the last row that is watched."""
        return max(stop for own in self.rows for _, stop in own)

    def take(self, layer: int, attention: torch.Tensor, first: int) -> None:
        """Note what a layer's rows attend to.

        Parameters
        ----------
        layer : int
        attention : torch.Tensor
            (prompts, heads, rows, columns), after softmax.
        first : int
            Position in the batch of its first row.
        """
        if layer not in self.layers:
            return
        mean = attention.float().mean(dim=1)
        groups, parts = self._masks_of(mean, first)
        self.seen[layer] = groups @ (mean @ parts)

    def _masks_of(self, mean: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights of rows (prompts, groups, rows) and of columns (prompts, columns, parts).

        They are the same in every layer of a call, which is asked for the device once.
        """
        count, rows, columns = mean.shape
        key = (first, rows, columns)
        if key not in self._masks:
            groups = torch.zeros(count, len(self.rows[0]), rows)
            parts = torch.zeros(count, columns, len(self.parts[0]) if self.parts else 0)
            for prompt, (own_rows, own_parts) in enumerate(zip(self.rows, self.parts, strict=True)):
                for group, (start, stop) in enumerate(own_rows):
                    groups[prompt, group, start - first : stop - first] = 1 / (stop - start)
                for part, pieces in enumerate(own_parts):
                    for piece in pieces:
                        parts[prompt, piece, part] = 1
            self._masks[key] = groups.to(mean.device), parts.to(mean.device)
        return self._masks[key]
