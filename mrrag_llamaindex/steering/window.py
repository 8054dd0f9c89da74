"""The steered rows of one attention call, as index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class RowWindow:
    """Rows to recompute, gathered into a rectangle over the batch rows that have any.

    Attributes
    ----------
    batch
        int64 (b,): batch rows with at least one steered row in this call.
    rows
        int64 (b, r): their query rows, counted from the first row of the call. Shorter lists
        repeat their last row, so that every entry is a real row.
    flat
        int64 (n,): entries of the flattened (b, r) rectangle that are not such repeats.
    weights
        float32 (b, 1, columns): the policy's weight of each key column; 0 for generated tokens.
    offset
        Position of the call's first row among the keys.
    columns
        Keys that the last of these rows can see; later ones are never needed.
    whole_batch
        Whether `batch` is simply every row of the batch in order.
    """

    batch: torch.Tensor
    rows: torch.Tensor
    flat: torch.Tensor
    weights: torch.Tensor
    offset: int
    columns: int
    whole_batch: bool

    @classmethod
    def build(
        cls,
        rows: Sequence[Sequence[int]],
        offset: int,
        column_weights: torch.Tensor,
        device: torch.device,
    ) -> RowWindow:
        """Gather ragged row lists.

        Parameters
        ----------
        rows
            For each batch row, the steered query rows in this call, ascending; may be empty.
        offset
            Position of the call's first row among the keys.
        column_weights
            float32 (batch, prompt tokens).
        device
            Where the tensors are placed.
        """
        batch = [index for index, row in enumerate(rows) if row]
        width = max(len(row) for row in rows)
        padded = [[*rows[b], *[rows[b][-1]] * (width - len(rows[b]))] for b in batch]
        flat = [i * width + j for i, b in enumerate(batch) for j in range(len(rows[b]))]
        columns = offset + max(rows[b][-1] for b in batch) + 1
        weights = column_weights[batch, None, :columns]
        return cls(
            batch=torch.tensor(batch, device=device),
            rows=torch.tensor(padded, device=device),
            flat=torch.tensor(flat, device=device),
            weights=F.pad(weights, (0, columns - weights.shape[-1])).to(device),
            offset=offset,
            columns=columns,
            whole_batch=len(batch) == len(rows),
        )

    @property
    def count(self) -> int:
        """Number of steered rows, over the whole batch."""
        return self.flat.numel()
