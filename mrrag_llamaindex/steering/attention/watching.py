"""Watch rows beside a stock kernel: their attention, computed as steered rows are."""

from __future__ import annotations

from dataclasses import replace

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.call_window import head_mask, layer_index
from mrrag_llamaindex.steering.attention.rows import row_attention
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.window import RowWindow


def watch_rows(
    plan: SteeringPlan,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    is_causal: bool = True,
) -> None:
    """Show a plan's watch what its rows attend to in this layer, if it asks for it.

    Parameters
    ----------
    plan
        With or without a watch.
    module, query, key, attention_mask, scaling, is_causal
        As for `registry.ifa_attention_forward` and `steer_rows`.

    Raises
    ------
    SteeringError
        If the batch is another one, or the call holds only some of the watched rows.
    """
    watch, layer = plan.watch, layer_index(module)
    columns, offset = key.shape[2], key.shape[2] - query.shape[2]
    if watch is None or layer not in watch.layers or offset >= plan.prompt_length:
        return
    count = len(watch.rows)
    if query.shape[0] != count or not offset <= watch.first < watch.stop <= columns:
        raise SteeringError(
            f"attention of {count} prompts is watched, their rows {watch.first}..{watch.stop} in "
            f"one piece; this call has {query.shape[0]} prompts and rows {offset}..{columns}"
        )
    rows = range(watch.first - offset, watch.stop - offset)
    weights = plan.column_weights[:, : watch.stop].to(query.device)
    window = RowWindow.build([rows] * count, offset, weights, query.device)
    steered = plan.steered_rows[:, watch.first : watch.stop, None].to(query.device)
    weights = window.weights * steered * (layer in plan.layers)
    window = replace(window, weights=weights)
    heads = head_mask(plan, module, query.shape[1], query.device) if layer in plan.layers else None
    attention = row_attention(
        query, key, attention_mask, scaling, plan.formula(layer), window, is_causal, heads
    )
    watch.take(layer, attention.flatten(1, 2), watch.first)
