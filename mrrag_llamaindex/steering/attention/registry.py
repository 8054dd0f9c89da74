"""The registered attention functions: stock attention, with steered rows in critical layers."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, flex_attention_mask, sdpa_mask

from mrrag_llamaindex.steering.attention.eager import eager_attention
from mrrag_llamaindex.steering.attention.flex import ifa_flex_attention_forward
from mrrag_llamaindex.steering.attention.gate import layer_index, steered_window
from mrrag_llamaindex.steering.attention.rows import steer_rows, write_rows
from mrrag_llamaindex.steering.plan import SteeringPlan

BACKENDS: Final = MappingProxyType(
    {"rows": "mrrag_ifa", "eager": "mrrag_ifa_eager", "flex": "mrrag_ifa_flex"}
)
"""Backend name to the name under which its attention function is registered."""


def register() -> None:
    """Make the attention functions known to transformers; may be called any number of times.

    Each name is registered together with its mask function: for a name without one,
    transformers builds no mask at all, and causality and padding are lost without a word.
    """
    AttentionInterface.register(BACKENDS["rows"], ifa_attention_forward)
    AttentionMaskInterface.register(BACKENDS["rows"], sdpa_mask)
    AttentionInterface.register(BACKENDS["eager"], ifa_eager_attention_forward)
    AttentionMaskInterface.register(BACKENDS["eager"], eager_mask)
    AttentionInterface.register(BACKENDS["flex"], ifa_flex_attention_forward)
    AttentionMaskInterface.register(BACKENDS["flex"], flex_attention_mask)


def ifa_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    steering: SteeringPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with the stock SDPA function, then write the steered rows over its output.

    Without a plan, in a layer that is not critical, and in a call without rows to steer (every
    decode step, unless the policy acts there), the result is that of
    ``sdpa_attention_forward``, bit for bit.

    Parameters
    ----------
    module
        The attention layer, with ``layer_idx``.
    query, key, value
        (batch, heads, rows, dim), (batch, key heads, keys, dim) twice; keys include the cache.
    attention_mask
        What ``sdpa_mask`` made: bool, float or None.
    scaling, dropout, **kwargs
        Passed on to the stock function.
    steering
        The plan of this call, or None.

    Returns
    -------
    output : torch.Tensor
        (batch, rows, heads, dim).
    weights : None
        SDPA does not return attention weights; the eager backend does.

    Raises
    ------
    SteeringError
        If the plan does not fit the call.
    """
    window = steered_window(module, query, key, attention_mask, steering, kwargs)
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    if steering is not None and window is not None:
        is_causal = kwargs.get("is_causal")
        steered = steer_rows(
            query,
            key,
            value,
            attention_mask,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            steering.policy,
            window,
            is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
            dropout=dropout,
            heads=steering.heads[layer_index(module)] if steering.heads else None,
        )
        write_rows(output, steered, window)
        steering.record(layer_index(module), window)
    return output, None


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

    Arguments and errors are those of `ifa_attention_forward`; without steering the result is
    that of the model's stock eager attention.

    Returns
    -------
    output : torch.Tensor
        (batch, rows, heads, dim).
    weights : torch.Tensor
        (batch, heads, rows, keys), after softmax.
    """
    window = steered_window(module, query, key, attention_mask, steering, kwargs)
    result = eager_attention(
        module, query, key, value, attention_mask, scaling, dropout, steering, window
    )
    if steering is not None and window is not None:
        steering.record(layer_index(module), window)
    return result
