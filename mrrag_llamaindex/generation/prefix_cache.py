"""Keys and values of image and documents, kept for the next question on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from transformers import DynamicCache

PrefixKey: TypeAlias = tuple[str | None, tuple[int, ...]]
"""Digest of the prepared image, and the token ids: nothing else decides keys and values."""


class PrefixCache:
    """The most recently used prefixes of one model.

    Steering never changes anything before the question (attention is causal), so one prefix
    serves every lambda, layer set and policy. What comes behind it is never shared.

    Parameters
    ----------
    capacity : int
        Prefixes kept; 0 keeps none. One of 2,000 tokens takes 250 MiB for a 7B model in
        bfloat16 with grouped-query attention.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"capacity must be at least 0, got {capacity}")
        self.capacity = capacity
        self.hits = 0
        self._kept: OrderedDict[PrefixKey, DynamicCache] = OrderedDict()

    def get(self, key: PrefixKey, prefill: Callable[[], DynamicCache]) -> DynamicCache:
        """Return the cache of a prefix (batch 1, never to be written to), or make it."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        while self._kept and len(self._kept) >= self.capacity:  # before the new one takes memory
            self._kept.popitem(last=False)
        prefilled = prefill()
        if self.capacity:
            self._kept[key] = prefilled
        return prefilled

    def clear(self) -> None:
        """Forget every prefix, and with it what is left of images and reports in memory."""
        self._kept.clear()


def fork(cache: DynamicCache, rows: int, config: Any) -> DynamicCache:
    """Copy a cache of batch 1 for ``rows`` rows; the original stays as it is."""
    forked = DynamicCache(config=config)
    layers: list[Any] = cache.layers  # typed for layers without keys, too
    for index, layer in enumerate(layers):
        keys, values = (tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
        forked.update(keys, values, index)
    return forked
