"""The attention of one short generation, by any backend: same masks and cache, random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask

from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.attention.registry import Backend
from mrrag_llamaindex.steering.plan import SteeringPlan


@dataclass(frozen=True)
class HeadGeometry:
    """What a kernel is compiled for.

    Attributes
    ----------
    heads, key_heads
        Query heads, and the key and value heads that they share.
    dim
        Dimensions of a head.
    """

    heads: int
    key_heads: int
    dim: int

    @classmethod
    def of(cls, text: PreTrainedConfig) -> HeadGeometry:
        """Read the configuration of a model's text layers."""
        heads = text.num_attention_heads
        return cls(
            heads,
            getattr(text, "num_key_value_heads", None) or heads,
            getattr(text, "head_dim", None) or text.hidden_size // heads,
        )

    def __str__(self) -> str:
        return f"{self.heads} query heads and {self.key_heads} key heads of {self.dim} dimensions"


def draw(
    geometry: HeadGeometry, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw query, key and value of a prompt and one token behind it.

    Returns
    -------
    query, key, value : torch.Tensor
        (1, length + 1, heads, dim), (1, length + 1, key heads, dim) twice; the same numbers for
        the same arguments.
    """
    generator = torch.Generator().manual_seed(length)
    query, key, value = (
        torch.randn(1, length + 1, heads, geometry.dim, generator=generator).to(device, dtype)
        for heads in (geometry.heads, geometry.key_heads, geometry.key_heads)
    )
    return 3 * query, key, value  # Attention that is far from even, as in a trained model.


def probe(
    backend: Backend, geometry: HeadGeometry, length: int, tensors: Sequence[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Attend over a prompt in a steered layer and in a plain one, then over one token after it.

    Parameters
    ----------
    backend
        The backend; is registered.
    geometry
        Heads of the layers.
    length
        Tokens of the prompt. IFA steers its last quarter towards most of its first half.
    tensors
        What `draw` returned, in any dtype and place.

    Yields
    ------
    torch.Tensor
        (1, new tokens, heads, dim); computed when it is asked for.
    """
    backend.register()
    config = PreTrainedConfig(
        attn_implementation=backend.registered  # type: ignore[call-arg]  # one of **kwargs
    )
    # What the attention functions read of an attention layer.
    groups = geometry.heads // geometry.key_heads
    layer = SimpleNamespace(
        layer_idx=0, num_key_value_groups=groups, is_causal=True, training=False
    )
    weights = torch.zeros(1, length)
    weights[:, 1 : length // 2] = 0.7
    rows = torch.zeros(1, length, dtype=torch.bool)
    rows[:, -(length // 4) :] = True
    plan = SteeringPlan(weights, rows, frozenset({layer.layer_idx}))
    plain = DynamicCache()
    for steering, cache, start, stop in (
        (plan, DynamicCache(), 0, length),
        (None, plain, 0, length),
        (None, plain, length, length + 1),
    ):
        with torch.inference_mode():
            query, key, value = (
                # Laid out as a projection lays them out: compiled code depends on it.
                tensor[:, start:stop].contiguous().transpose(1, 2)
                for tensor in tensors
            )
            given: dict[str, Any] = {CACHE: cache}
            mask: Any = create_causal_mask(
                config,
                inputs_embeds=query[:, 0],
                attention_mask=torch.ones(1, stop, dtype=torch.long, device=query.device),
                **given,
            )
            key, value = cache.update(key, value, layer.layer_idx)
            scaling = query.shape[-1] ** -0.5
            output, _ = backend.attend(
                layer, query, key, value, mask, scaling=scaling, steering=steering
            )
        yield output
