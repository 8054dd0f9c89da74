"""The registered attention functions: stock attention, with steered rows in critical layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, flex_attention_mask, sdpa_mask

from mrrag_llamaindex.steering.attention.call_window import (
    foreign_terms,
    head_mask,
    layer_index,
    steered_window,
)
from mrrag_llamaindex.steering.attention.eager import ifa_eager_attention_forward
from mrrag_llamaindex.steering.attention.flex import ifa_flex_attention_forward
from mrrag_llamaindex.steering.attention.rows import steer_rows, write_rows
from mrrag_llamaindex.steering.attention.watching import watch_rows
from mrrag_llamaindex.steering.plan import SteeringPlan


@dataclass(frozen=True)
class Backend:
    """One way to compute steered attention.

    Attributes
    ----------
    registered
        Name under which transformers knows its two functions.
    attend
        The attention function, with the arguments of `ifa_attention_forward`.
    mask
        The mask function of transformers whose masks `attend` understands.
    needs_proof
        Whether it is compared with the definition where a model is loaded, see
        `attention.proof`. Plain tensor code need not be: it is the same on every
        machine. Code that is generated on the machine is as right as the compiler there.
    """

    registered: str
    attend: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
    mask: Callable[..., Any]
    needs_proof: bool = False

    def register(self) -> None:
        """Make it known to transformers; may be called any number of times.

        The attention function is registered together with its mask function: for a name without
        one, transformers builds no mask at all, and causality and padding are lost without a word.
        """
        AttentionInterface.register(self.registered, self.attend)
        AttentionMaskInterface.register(self.registered, self.mask)


def register() -> None:
    """Make all `BACKENDS` known to transformers; may be called any number of times."""
    for backend in BACKENDS.values():
        backend.register()


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
    if steering is None:
        return output, None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_causal = kwargs.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not foreign_terms(kwargs):  # with others the rows would not be those of the layer
        watch_rows(steering, module, query, key, attention_mask, scaling, is_causal)
    if window is not None:
        if steering.edit is None:
            steered = steer_rows(
                query,
                key,
                value,
                attention_mask,
                scaling,
                steering.formula(layer_index(module)),
                window,
                is_causal=is_causal,
                dropout=dropout,
                heads=head_mask(steering, module, query.shape[1], query.device),
            )
            write_rows(output, steered, window)
        steering.finish(output, layer_index(module), window)
    return output, None


BACKENDS: Final = MappingProxyType(
    {
        "rows": Backend("mrrag_ifa", ifa_attention_forward, sdpa_mask),
        "eager": Backend("mrrag_ifa_eager", ifa_eager_attention_forward, eager_mask),
        "flex": Backend(
            "mrrag_ifa_flex", ifa_flex_attention_forward, flex_attention_mask, needs_proof=True
        ),
    }
)
"""The backends by name."""
