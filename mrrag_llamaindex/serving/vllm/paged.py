"""Keys and values of one request, read out of the engine's paged cache.

How a kernel lays the tokens of a block out depends on the kernel, the instruction set and the
data type. Instead of knowing, we ask: numbers are written into a block by the engine's own function
and looked up where they went. A layout in which that is not one place per number is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mrrag_llamaindex.errors import SteeringError

_BASE = 128
"""Counted in digits that bfloat16, too, holds exactly."""

Writer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Writes keys, values (tokens, heads, dim) into a cache, at the slots: the engine's function."""


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Where a block holds what.

    Attributes
    ----------
    keys, values : torch.Tensor
        int64 (heads * block_size * dim,): places in the flattened block, in that order.
    heads, block_size, dim
        Key heads, tokens per block, and the width of a head.
    """

    keys: torch.Tensor
    values: torch.Tensor
    heads: int
    block_size: int
    dim: int

    @classmethod
    def learn(
        cls, write: Writer, cache: torch.Tensor, heads: int, block_size: int, dim: int
    ) -> BlockLayout:
        """Find the layout of a cache.

        Parameters
        ----------
        write
            The engine's function; it is called with a block of its own.
        cache : torch.Tensor
            (blocks, ...), whose shape and strides the block gets; it is not touched.
        heads, block_size, dim
            As the attributes.

        Raises
        ------
        SteeringError
            If numbers do not come out as they went in, each in a place of its own.
        """
        count = block_size * heads * dim
        shape, device = (block_size, heads, dim), cache.device
        slots = torch.arange(block_size, device=device)
        # Block 0 is some engines' null block, and its strides need a neighbour.
        block = torch.empty_strided(
            (2, *cache.shape[1:]), cache.stride(), dtype=cache.dtype, device=device
        )
        codes = torch.arange(2 * count, device=device)
        found = torch.zeros(block[0].numel(), dtype=torch.int64, device=device)
        digit = 1
        while digit < 2 * count:
            numbers = (codes // digit % _BASE).to(cache.dtype)
            block.zero_()
            write(
                numbers[:count].view(shape), numbers[count:].view(shape), block, slots + block_size
            )
            found += block[1].flatten().long() * digit
            digit *= _BASE
        places = found.argsort()
        if len(found) != 2 * count or not torch.equal(found[places], codes):
            raise SteeringError(
                "steering: this engine's cache does not hold one place per number of a key or "
                "value (it is quantised, padded or shared), so the rows cannot be computed again"
            )
        by_head = places.view(2, *shape).transpose(1, 2).reshape(2, -1)
        return cls(by_head[0], by_head[1], heads, block_size, dim)

    def gather(
        self, cache: torch.Tensor, blocks: torch.Tensor, tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the first tokens of one request.

        Parameters
        ----------
        cache : torch.Tensor
            (blocks, ...).
        blocks : torch.Tensor
            Its blocks in order, as many as the tokens need.
        tokens : int
            How many are wanted.

        Returns
        -------
        keys, values : torch.Tensor
            (1, heads, tokens, dim) each.
        """
        flat = cache[blocks].flatten(1)
        return (
            self._in_order(flat, self.keys, tokens),
            self._in_order(flat, self.values, tokens),
        )

    def _in_order(self, flat: torch.Tensor, places: torch.Tensor, tokens: int) -> torch.Tensor:
        ordered = flat.index_select(1, places).view(-1, self.heads, self.block_size, self.dim)
        return ordered.transpose(0, 1).reshape(1, self.heads, -1, self.dim)[:, :, :tokens]


def layout_of(layer: Any, cache: torch.Tensor) -> BlockLayout:
    """Find the layout of one attention layer's cache, once, and keep it with the layer's class."""
    implementation = layer.impl
    known: BlockLayout | None = getattr(implementation, "block_layout", None)
    if known is None:
        heads, dim = implementation.num_kv_heads, implementation.head_size
        block_size = cache[0].numel() // (2 * heads * dim)

        def write(
            keys: torch.Tensor, values: torch.Tensor, block: torch.Tensor, slots: torch.Tensor
        ) -> None:
            implementation.do_kv_cache_update(layer, keys, values, block, slots)

        known = BlockLayout.learn(write, cache, heads, block_size, dim)
        implementation.block_layout = known
    return known
