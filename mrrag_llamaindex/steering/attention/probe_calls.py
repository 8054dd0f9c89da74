"""The attention of one short generation, by any backend: same masks and cache, random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask

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


class ProbeCalls:
    """A prompt and the token after it, in a steered layer and in a plain one.

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
    """

    def __init__(
        self,
        backend: Backend,
        geometry: HeadGeometry,
        length: int,
        tensors: Sequence[torch.Tensor],
    ) -> None:
        backend.register()
        self._attend = backend.attend
        self._config = PreTrainedConfig(
            attn_implementation=backend.registered  # type: ignore[call-arg]  # one of **kwargs
        )
        # What the attention functions read of an attention layer.
        groups = geometry.heads // geometry.key_heads
        self._layer = SimpleNamespace(
            layer_idx=0, num_key_value_groups=groups, is_causal=True, training=False
        )
        self._tensors = tensors
        # One for each kind of layer: both see the whole prompt.
        self._caches = {True: DynamicCache(), False: DynamicCache()}
        weights = torch.zeros(1, length)
        weights[:, 1 : length // 2] = 0.7
        rows = torch.zeros(1, length, dtype=torch.bool)
        rows[:, -(length // 4) :] = True
        self._plan = SteeringPlan(weights, rows, frozenset({self._layer.layer_idx}))

    @torch.inference_mode()
    def attend(self, steered: bool, stop: int) -> torch.Tensor:
        """Attend in one of the layers, from where its cache ends.

        Parameters
        ----------
        steered
            Which layer.
        stop
            End of the tokens that are new in this call.

        Returns
        -------
        torch.Tensor
            (1, new tokens, heads, dim).
        """
        cache = self._caches[steered]
        start = cache.get_seq_length()
        query, key, value = (
            # Laid out as a projection lays them out: compiled code depends on it.
            tensor[:, start:stop].contiguous().transpose(1, 2)
            for tensor in self._tensors
        )
        mask: Any = create_causal_mask(
            self._config,
            inputs_embeds=query[:, 0],
            attention_mask=torch.ones(1, stop, dtype=torch.long, device=query.device),
            past_key_values=cache,
        )
        key, value = cache.update(key, value, self._layer.layer_idx)
        output, _ = self._attend(
            self._layer,
            query,
            key,
            value,
            mask,
            scaling=query.shape[-1] ** -0.5,
            steering=self._plan if steered else None,
        )
        return output
