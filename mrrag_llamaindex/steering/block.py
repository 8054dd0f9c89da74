"""Attention blocking: the policy that cuts chosen cells, and the mask that hides columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mrrag_llamaindex.errors import SteeringError


@dataclass(frozen=True)
class Block:
    """Take all attention away from the columns that a plan names, in the rows that it names.

    ``A'_ij`` is the most negative finite number where the column's weight is not 0 (attention
    knockout: Geva et al., EMNLP 2023). The mask still follows, so padding and later tokens stay
    hidden, and softmax shares the attention out over what is left.

    Examples
    --------
    >>> blocked = Block().steer(torch.tensor([2.0, -2.0, 4.0]), torch.tensor([1.0, 0.0, 0.0]))
    >>> [round(p, 4) for p in blocked.softmax(-1).tolist()]
    [0.0, 0.0025, 0.9975]
    """

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Block the columns whose weight is not 0, see `Formula`."""
        # Not -inf: an additive mask on top of it must not make NaN.
        return torch.where(weights != 0, torch.finfo(logits.dtype).min, logits)


def hiding_mask(hidden: torch.Tensor, shared: int) -> torch.Tensor:
    """Make the attention mask of rows behind a shared prefix, some of whose columns they miss.

    A mask comes after the policy of a steered call, so whatever the policy does to a hidden
    column is undone: the two need to know nothing of each other.

    Parameters
    ----------
    hidden
        bool (batch, length): columns that no row of the call may see. The call has no padding.
    shared
        Tokens that are in the cache; the rows of the call are those from there on.

    Returns
    -------
    torch.Tensor
        bool (batch, 1, length - shared, length): True where a row may attend.

    Raises
    ------
    SteeringError
        If a row of the call would be hidden: it could see nothing, itself included.

    Examples
    --------
    >>> hiding_mask(torch.tensor([[False, True, False, False]]), shared=2).int().tolist()
    [[[[1, 0, 1, 0], [1, 0, 1, 1]]]]
    """
    length = hidden.shape[1]
    if not 0 <= shared < length or bool(hidden[:, shared:].any()):
        raise SteeringError(
            f"columns to hide must lie in the {shared} tokens that the rows of a call share, and "
            f"the call must have rows behind them (it has {length - shared})"
        )
    position = torch.arange(length, device=hidden.device)
    causal = position[None, :] <= position[shared:, None]
    return (causal & ~hidden[:, None, :])[:, None]
