"""Lay token sequences of unequal length into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def pad_batch(
    sequences: Sequence[Sequence[int]], pad_token_id: int, *, shared: int = 0
) -> dict[str, Any]:
    """Pad token sequences so that all of them end in the last column.

    Parameters
    ----------
    sequences : sequence of sequence of int
    pad_token_id : int
    shared : int
        Tokens at the start that all have in common; they stay in the first columns, and the
        padding stands behind them.

    Returns
    -------
    dict
        ``input_ids`` and ``attention_mask``, int64 (rows, longest); the mask is 0 on padding.

    Examples
    --------
    >>> pad_batch([[7, 8, 1], [7, 8, 2, 3]], 0, shared=2)["input_ids"].tolist()
    [[7, 8, 0, 1], [7, 8, 2, 3]]
    """
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence)
        start = length - len(sequence) + shared
        ids[row, :shared], ids[row, start:] = tokens[:shared], tokens[shared:]
        mask[row, :shared] = mask[row, start:] = 1
    return {"input_ids": ids, "attention_mask": mask}
