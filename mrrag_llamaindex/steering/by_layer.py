"""What a policy says of each layer: mappings that can be keys, checked, of the same layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from mrrag_llamaindex.steering.policy import Layers

V = TypeVar("V")


class ByLayer(dict[int, V]):
    """A mapping from layers that is a value: hashable, so that a policy can be a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def checked_heads(heads: Mapping[int, tuple[int, ...]]) -> ByLayer[tuple[int, ...]]:
    """Read the field ``heads`` of a policy.

    Raises
    ------
    ValueError
        Unless it names heads >= 0 for at least one layer, and for each one it names.
    """
    named = ByLayer({layer: tuple(of_layer) for layer, of_layer in heads.items()})
    if not named or any(not of_layer or min(of_layer) < 0 for of_layer in named.values()):
        raise ValueError(f"heads must name heads >= 0 for each layer, got {heads!r}")
    return named


def checked_factors(factors: Mapping[int, float]) -> ByLayer[float]:
    """Read the field ``by_layer`` of a policy.

    Raises
    ------
    ValueError
        Unless it holds a finite number above 0 for at least one layer.
    """
    named = ByLayer({layer: float(factor) for layer, factor in factors.items()})
    if not named or any(not 0 < factor < math.inf for factor in named.values()):
        raise ValueError(
            f"by_layer must hold a finite factor above 0 for each layer, got {factors!r}: leave a "
            "layer out rather than give it 0"
        )
    return named


def layers_of(layers: Layers | None, **fields: Mapping[int, object] | None) -> Layers | None:
    """Return the layers that fields of a policy name; all must name the same ones.

    Parameters
    ----------
    layers
        The policy's own, None for those of the fields.
    **fields
        Mappings from layers by the names of their fields; None where one is not given.

    Raises
    ------
    ValueError
        If two of them differ.

    Examples
    --------
    >>> layers_of(None, heads={3: (0,), 1: (2,)}, by_layer=None)
    (3, 1)
    """
    for name, mapping in fields.items():
        if mapping is None:
            continue
        if layers is not None and set(layers) != set(mapping):
            raise ValueError(
                f"layers {layers!r} are not those of {name}, {tuple(mapping)!r}: name the same "
                "layers, or leave layers None"
            )
        layers = tuple(mapping) if layers is None else layers
    return layers
