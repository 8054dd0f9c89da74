"""Steering by its definition, on the full matrix of logits: what every other backend must equal."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import repeat_kv

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.call_window import layer_index
from mrrag_llamaindex.steering.attention.rows import head_mask
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import Formula
from mrrag_llamaindex.steering.window import RowWindow


def steered_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    policy: Formula | None = None,
    rows: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    dropout: float = 0.0,
    heads: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as the transformers eager function does, with one step put in.

    Parameters
    ----------
    query, key, value
        (batch, heads, rows, dim), (batch, heads, keys, dim) twice: key and value heads already
        repeated for grouped queries.
    attention_mask
        Boolean (True: may attend), additive float, or None; broadcastable to
        (batch, heads, rows, keys).
    scaling
        Factor on the dot products.
    policy, rows, weights
        The formula, bool (batch, 1, rows, 1) of steered rows and float32 (batch, 1, 1, keys) of
        column weights; all None for plain attention.
    dropout
        Probability of dropping an attention weight.
    heads
        bool (heads,) of steered heads; None for all.

    Returns
    -------
    output : torch.Tensor
        (batch, heads, rows, dim).
    weights : torch.Tensor
        Attention after softmax, (batch, heads, rows, keys).

    Examples
    --------
    A negative logit at lambda 1 becomes 0, and only there does attention grow:

    >>> eye = torch.tensor([[[[1.0, -1.0]]]])
    >>> plain = steered_attention(eye[..., :1], eye.mT, eye.mT, None, 1.0)[1]
    >>> on = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    >>> lam = torch.tensor([[[[0.0, 1.0]]]])
    >>> from mrrag_llamaindex.steering.ifa import IFA
    >>> steered = steered_attention(eye[..., :1], eye.mT, eye.mT, None, 1.0, IFA(), on, lam)[1]
    >>> [round(p, 4) for p in plain.flatten().tolist()]
    [0.8808, 0.1192]
    >>> [round(p, 4) for p in steered.flatten().tolist()]
    [0.7311, 0.2689]
    """
    logits = torch.matmul(query, key.transpose(2, 3)) * scaling
    if policy is not None and rows is not None and weights is not None:
        # Before the mask: at lambda 1 the formula would turn a masked cell, the most negative
        # finite number, into 0 and un-mask it (and -inf into NaN).
        if heads is not None:
            rows = rows & heads[:, None, None]
        logits = torch.where(rows, policy.steer(logits, weights), logits)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attention_mask, torch.finfo(logits.dtype).min)
        else:
            logits = logits + attention_mask
    attention = F.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    attention = F.dropout(attention, p=dropout, training=dropout > 0)
    return torch.matmul(attention, value), attention


def full_rows(
    plan: SteeringPlan, window: RowWindow, query_length: int, key_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread a window over the whole matrix of one attention call.

    Returns
    -------
    rows : torch.Tensor
        bool (batch, 1, query_length, 1).
    weights : torch.Tensor
        float32 (batch, 1, 1, key_length); 0 for keys beyond the plan.
    """
    device = window.rows.device
    rows = torch.zeros(plan.batch_size, 1, query_length, 1, dtype=torch.bool, device=device)
    rows[window.batch[:, None], 0, window.rows, 0] = True
    weights = plan.column_weights[:, :key_length].to(device)
    return rows, F.pad(weights, (0, key_length - weights.shape[1]))[:, None, None, :]


def eager_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
    plan: SteeringPlan | None,
    window: RowWindow | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `steered_attention` in the layout of a transformers attention function.

    Parameters
    ----------
    module
        The attention layer; its ``num_key_value_groups`` repeats key and value heads.
    query, key, value
        (batch, heads, rows, dim), (batch, key heads, keys, dim) twice.
    attention_mask, scaling, dropout
        As for `steered_attention`; ``scaling=None`` is ``dim ** -0.5``.
    plan, window
        The plan and its rows in this call; None for plain attention.

    Returns
    -------
    output : torch.Tensor
        (batch, rows, heads, dim).
    weights : torch.Tensor
        (batch, heads, rows, keys).
    """
    groups = getattr(module, "num_key_value_groups", 1)
    arguments: dict[str, Any] = {}
    if plan is not None and window is not None:
        if attention_mask is None and query.shape[2] > 1:
            raise SteeringError(
                "steering: no attention mask reached the eager function, so neither causality "
                "nor padding would hold; call steering.attention.registry.register()"
            )
        rows, weights = full_rows(plan, window, query.shape[2], key.shape[2])
        arguments = {"policy": plan.policy, "rows": rows, "weights": weights}
        if plan.heads is not None:
            chosen = plan.heads[layer_index(module)]
            arguments["heads"] = head_mask(chosen, query.shape[1], query.device)
    output, attention = steered_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        **arguments,
    )
    return output.transpose(1, 2).contiguous(), attention
