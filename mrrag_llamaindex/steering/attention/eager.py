"""Steering by its definition, on the full matrix of logits: what every other backend must equal."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import repeat_kv

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.call_window import (
    head_mask,
    layer_index,
    spread,
    steered_window,
)
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import Formula


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


def ifa_eager_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    steering: SteeringPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend by the definition, and return the attention weights as well.

    Without steering the result is that of the model's stock eager attention.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer, with ``layer_idx``.
    query, key, value : torch.Tensor
        (batch, heads, rows, dim), (batch, key heads, keys, dim) twice; keys include the cache.
    attention_mask : torch.Tensor or None
        Additive, (batch or 1, 1, rows, keys). None is an error in a steered call of several rows:
        neither causality nor padding would hold.
    scaling : float, optional
        Of the logits; by default that of the layer.
    dropout : float
    steering : SteeringPlan or None
        The plan of this call.
    **kwargs
        As `registry.ifa_attention_forward`, whose errors it raises.

    Returns
    -------
    output : torch.Tensor
        (batch, rows, heads, dim).
    weights : torch.Tensor
        (batch, heads, rows, keys), after softmax.
    """
    window = steered_window(module, query, key, attention_mask, steering, kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    arguments: dict[str, Any] = {}
    if steering is not None and window is not None:
        if attention_mask is None and query.shape[2] > 1:
            raise SteeringError(
                "steering: no attention mask reached the eager function, so neither causality "
                "nor padding would hold; call steering.attention.registry.register()"
            )
        if steering.edit is None:
            rows, weights = spread(steering, window, query.shape[2], key.shape[2])
            arguments = {
                "policy": steering.formula(layer_index(module)),
                "rows": rows[:, None, :, None],
                "weights": weights[:, None, None, :],
                "heads": head_mask(steering, module, query.shape[1], query.device),
            }
    output, attention = steered_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        **arguments,
    )
    if steering is not None and steering.watch is not None:
        first = key.shape[2] - query.shape[2]
        if first < steering.prompt_length:
            steering.watch.take(layer_index(module), attention, first)
    output = output.transpose(1, 2).contiguous()
    if steering is not None and window is not None:
        steering.finish(output, layer_index(module), window)
    return output, attention
