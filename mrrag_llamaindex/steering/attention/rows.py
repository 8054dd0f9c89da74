"""The rows backend: recompute only the steered rows, exactly, beside the stock kernel."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mrrag_llamaindex.steering.policy import Formula
from mrrag_llamaindex.steering.window import RowWindow


def steer_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    policy: Formula,
    window: RowWindow,
    is_causal: bool = True,
    dropout: float = 0.0,
    heads: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend for the rows of a window only: boost, then mask, then softmax, then times V.

    Costs steered rows x keys instead of all rows x keys. Key and value heads are not repeated:
    the query heads of one group are stacked as rows of their shared key head. Logits and
    softmax are float32 at least, whatever the dtype of the model.

    Parameters
    ----------
    query, key, value
        (batch, heads, rows, dim), (batch, key heads, keys, dim) twice.
    attention_mask
        Boolean (True: may attend), additive float, or None for the causal shortcut;
        (batch or 1, heads or 1, rows, keys).
    scaling
        Factor on the dot products.
    policy
        Formula from raw logits to new ones.
    window
        Which rows; (b, r) with b batch rows and at most r rows in each.
    is_causal
        What a mask of None means.
    dropout
        Probability of dropping an attention weight.
    heads
        bool (heads,): query heads to steer; None for all. The others attend plainly.

    Returns
    -------
    torch.Tensor
        (b, r, heads, dim) in the dtype of `query`.
    """
    attention = row_attention(
        query, key, attention_mask, scaling, policy, window, is_causal=is_causal, heads=heads
    )
    attention = F.dropout(attention, p=dropout, training=dropout > 0)
    count, key_heads, groups, width, columns = attention.shape
    values = value[:, :, :columns]
    if not window.whole_batch:
        values = values[window.batch]
    output = torch.matmul(
        attention.view(count, key_heads, groups * width, columns), values.to(attention.dtype)
    )
    output = output.reshape(count, key_heads * groups, width, value.shape[3])
    return output.transpose(1, 2).to(query.dtype)


def row_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    policy: Formula,
    window: RowWindow,
    is_causal: bool = True,
    heads: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the attention of the rows of a window: boost, then mask, then softmax.

    Parameters
    ----------
    query, key, attention_mask, scaling, policy, window, is_causal, heads
        As for `steer_rows`.

    Returns
    -------
    torch.Tensor
        (b, key heads, query heads of each, r, columns), float32 at least.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    head_count, dim = query.shape[1], query.shape[3]
    key_heads = key.shape[1]
    count, width = window.rows.shape
    grouped = (count, key_heads, head_count // key_heads, width)

    at = (window.batch[:, None], slice(None), window.rows)
    rows = query[at].to(dtype).transpose(1, 2).reshape(count, key_heads, -1, dim)
    keys = key[:, :, : window.columns]
    if not window.whole_batch:
        keys = keys[window.batch]

    logits = torch.matmul(rows * scaling, keys.to(dtype).transpose(2, 3))
    logits = logits.view(*grouped, window.columns)
    steered = policy.steer(logits, window.weights[:, None, None].to(dtype))
    if heads is not None:
        steered = torch.where(heads.view(grouped[1], grouped[2], 1, 1), steered, logits)
    logits = steered

    if attention_mask is not None:
        mask = attention_mask[..., : window.columns].expand(query.shape[0], -1, -1, -1)
        mask = mask[at].transpose(1, 2)  # (b, heads or 1, r, columns)
        mask = mask[:, :, None] if mask.shape[1] == 1 else mask.view(logits.shape)
        if mask.dtype == torch.bool:
            logits.masked_fill_(~mask, torch.finfo(dtype).min)
        else:
            logits.add_(mask.to(dtype))
    elif is_causal:
        positions = torch.arange(window.columns, device=query.device)
        future = positions > (window.rows + window.offset)[:, None, None, :, None]
        logits.masked_fill_(future, torch.finfo(dtype).min)
    return F.softmax(logits, dim=-1)


def write_rows(output: torch.Tensor, steered: torch.Tensor, window: RowWindow) -> None:
    """Put recomputed rows in their places.

    Parameters
    ----------
    output
        (batch, rows, heads, dim), changed in place.
    steered
        (b, r, heads, dim), as `steer_rows` returns it.
    window
        The window that `steered` was computed for.
    """
    width = window.rows.shape[1]
    batch = window.batch[window.flat // width]
    output[batch, window.rows.flatten()[window.flat]] = steered.flatten(0, 1)[window.flat]
