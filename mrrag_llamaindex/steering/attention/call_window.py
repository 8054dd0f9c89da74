"""Which rows of one attention call are steered, and whether the call can be steered at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.window import RowWindow

# Terms that some models add inside attention and that the recomputed rows would not see.
_FOREIGN_TERMS = ("softcap", "position_bias", "s_aux")


def layer_index(module: torch.nn.Module) -> int:
    """Read the number of a decoder layer from its attention; -1 where it has none."""
    index = getattr(module, "layer_idx", None)
    return index if isinstance(index, int) else -1


def foreign_terms(kwargs: Mapping[str, Any]) -> list[str]:
    """Name what a layer adds to its logits that recomputed rows would not see."""
    return [name for name in _FOREIGN_TERMS if kwargs.get(name) is not None]


def head_mask(
    plan: SteeringPlan, module: torch.nn.Module, count: int, device: torch.device
) -> torch.Tensor | None:
    """Mark the steered ones of a layer's `count` query heads: bool (count,); None for all."""
    if plan.heads is None:
        return None
    heads = plan.heads[layer_index(module)]
    return torch.tensor([head in heads for head in range(count)], device=device)


def spread(
    plan: SteeringPlan, window: RowWindow, query_length: int, key_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread a window over a whole call: bool (batch, queries) and float32 (batch, keys).

    The weights are 0 for keys beyond the plan.
    """
    device = window.rows.device
    rows = torch.zeros(plan.batch_size, query_length, dtype=torch.bool, device=device)
    rows[window.batch[:, None], window.rows] = True
    weights = plan.column_weights[:, :key_length].to(device)
    return rows, F.pad(weights, (0, key_length - weights.shape[1]))


def steered_window(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: object,
    plan: SteeringPlan | None,
    kwargs: Mapping[str, Any],
) -> RowWindow | None:
    """Find this call's steered rows.

    Parameters
    ----------
    module
        The attention layer, with ``layer_idx``.
    query, key
        (batch, heads, rows, dim), (batch, key heads, keys, dim).
    attention_mask
        What reached the layer: a tensor, a block mask or None.
    plan
        The plan of the call, or None.
    kwargs
        The other keywords that reached the layer.

    Returns
    -------
    RowWindow or None
        None means: leave the call to the stock function.

    Raises
    ------
    SteeringError
        If the batch is not the plan's, no mask arrived although one is needed, or the layer adds
        terms to its logits that this package does not know.
    """
    if plan is None or layer_index(module) not in plan.layers:
        return None
    if plan.batch_size != query.shape[0]:
        raise SteeringError(
            f"steering: the plan has {plan.batch_size} rows, the batch {query.shape[0]}. Beam "
            "search and num_return_sequences > 1 repeat rows behind the plan's back: repeat the "
            "prompts and build the plan for all of them, or generate one sequence per prompt"
        )
    rows, columns = query.shape[2], key.shape[2]
    window = plan.window(rows, columns, query.device)
    if window is None:
        return None
    if attention_mask is None and (any(plan.padding) or 1 < rows < columns):
        raise SteeringError(
            f"steering: no attention mask reached layer {layer_index(module)}, but the batch "
            "is padded or continues a cache. Pass attention_mask, and call "
            "mrrag_llamaindex.steering.attention.registry.register() before the model is loaded"
        )
    for name in foreign_terms(kwargs):
        raise SteeringError(
            f"steering: {type(module).__name__} uses {name!r} inside attention, which this "
            "package does not steer; generate with steering off or with another model"
        )
    return window
