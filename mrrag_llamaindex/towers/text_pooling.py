"""From the hidden states of a text encoder to one vector for each text."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "cls", "last")


def pool_tokens(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector per text from hidden states.

    Parameters
    ----------
    hidden : Tensor, shape (batch, T, d)
    attention_mask : Tensor, shape (batch, T)
    pooling : {"mean", "cls", "last"}
        Over the positions where the mask is 1: their mean, the first, or the last of them.

    Returns
    -------
    Tensor, shape (batch, d)
    """
    if pooling == "cls":
        first = attention_mask.to(torch.int64).argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), first]
    if pooling == "last":
        length = attention_mask.shape[1]
        back = attention_mask.to(torch.int64).flip(1).argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), length - 1 - back]
    mask = attention_mask[:, :, None].to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
