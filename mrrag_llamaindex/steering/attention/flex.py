"""The flex backend: FlexAttention with the steering formula as its score function."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.flex_attention import (
    compile_friendly_flex_attention,
    flex_attention_forward,
    repeat_kv,
)

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.call_window import (
    head_mask,
    layer_index,
    spread,
    steered_window,
)
from mrrag_llamaindex.steering.plan import SteeringPlan


def ifa_flex_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    scaling: float | None = None,
    steering: SteeringPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend with FlexAttention; in critical layers its score function is the policy.

    FlexAttention applies the mask after the score function, so steering cannot un-mask a cell.
    Without a plan, in a layer that is not critical, and in a call without rows to steer (every
    decode step, unless the policy acts there), the result is that of
    ``flex_attention_forward``, bit for bit.

    Compared on a CPU with the eager definition, uncompiled and compiled. On a GPU it has not been
    run. It is compiled anew when the kind of call changes (batch, lengths, steered or not), which
    takes seconds; past the recompile limit of torch it runs unfused, and holds all logits.

    On a CPU this is for comparisons. The C++ that torch 2.13 generates there often does not build
    once batch or lengths have changed within a process, a RuntimeError from the stock function
    too, and on CPUs without AVX-512 its results are wrong for short prompts and narrow heads.
    `attention.proof` tries it where a model is loaded, and refuses it there.
    ``torch.compiler.set_stance("force_eager")`` runs both uncompiled and right, for every shape.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer, with ``layer_idx``.
    query, key, value : torch.Tensor
        (batch, heads, rows, dim), (batch, key heads, keys, dim) twice; keys include the cache.
    attention_mask : torch.Tensor, BlockMask or None
        What ``flex_attention_mask`` made.
    scaling, **kwargs
        As for the stock function.
    steering : SteeringPlan or None
        The plan of this call.

    Returns
    -------
    output : torch.Tensor
        (batch, rows, heads, dim).
    lse : torch.Tensor or None
        What the stock function returned; None in a steered call.

    Raises
    ------
    SteeringError
        If the plan does not fit the call, or no block mask reached a steered layer.
    """
    window = steered_window(module, query, key, attention_mask, steering, kwargs)
    if steering is None or window is None:
        return flex_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,  # type: ignore[arg-type]  # None is what a plan-free call may have
            scaling=scaling,
            **kwargs,
        )
    if not isinstance(attention_mask, BlockMask):
        raise SteeringError(
            f"steering: no block mask reached layer {layer_index(module)}, so neither causality "
            "nor padding would hold; pass a two-dimensional attention_mask, and call "
            "mrrag_llamaindex.steering.attention.registry.register() before the model is loaded"
        )
    if steering.edit is not None:
        result, lse = flex_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        steering.finish(result, layer_index(module), window)
        return result, lse
    if kwargs.get("dropout", 0.0) > 0:
        raise SteeringError("steering: the flex backend has no dropout; call model.eval()")

    policy = steering.formula(layer_index(module))
    rows, weights = spread(steering, window, query.shape[2], key.shape[2])
    steered_heads = head_mask(steering, module, query.shape[1], query.device)

    def steer(
        score: torch.Tensor,
        batch: torch.Tensor,
        head: torch.Tensor,
        row: torch.Tensor,
        column: torch.Tensor,
    ) -> torch.Tensor:
        here = rows[batch, row]
        if steered_heads is not None:
            here = here & steered_heads[head]
        return torch.where(here, policy.steer(score, weights[batch, column]), score)

    heads, key_heads = query.shape[1], key.shape[1]
    grouped = heads & (heads - 1) == 0  # Otherwise repeated, as by the stock function.
    if not grouped:
        key, value = repeat_kv(key, heads // key_heads), repeat_kv(value, heads // key_heads)
    # One tensor, since no auxiliary output is asked for.
    output: Any = compile_friendly_flex_attention(
        query,
        key,
        value,
        training=module.training,
        score_mod=steer,
        block_mask=attention_mask,
        enable_gqa=grouped,
        scale=scaling,
        kernel_options=kwargs.get("kernel_options"),
    )
    result = output.transpose(1, 2).contiguous()
    steering.finish(result, layer_index(module), window)
    return result, None
