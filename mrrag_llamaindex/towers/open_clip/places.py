"""From stored names to those of a transformers model, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrrag_llamaindex.errors import TowerError


@dataclass(frozen=True)
class Place:
    """Where one stored tensor belongs.

    Attributes
    ----------
    stored : str
        Its name in the file.
    shape : tuple of int
        As it must be stored.
    targets : tuple of str
        Names in the model; several share the rows, in this order and equal parts.
    transposed : bool
        Whether the model holds it the other way round.
    """

    stored: str
    shape: tuple[int, ...]
    targets: tuple[str, ...]
    transposed: bool = False


def layer(stored: str, target: str, rows: int, columns: int | None = None) -> list[Place]:
    """Places of the weight and the bias of a linear layer, or, without columns, of a norm."""
    weight = (rows,) if columns is None else (rows, columns)
    return [
        Place(f"{stored}.weight", weight, (f"{target}.weight",)),
        Place(f"{stored}.bias", (rows,), (f"{target}.bias",)),
    ]


def check_places(
    places: Iterable[Place], shapes: Mapping[str, tuple[int, ...]], unused: Iterable[str] = ()
) -> None:
    """Compare what is stored with what a model needs.

    Parameters
    ----------
    places : iterable of Place
    shapes : mapping
        Of every stored tensor.
    unused : iterable of str
        Stored names that take no part in a vector.

    Raises
    ------
    TowerError
        Naming the first stored tensor that is missing, of another shape, or without a place.
    """
    wanted = {place.stored: place.shape for place in places}
    for name, shape in wanted.items():
        if name not in shapes:
            raise TowerError(f"tensor {name!r} is missing ({len(shapes)} are stored)")
        if shapes[name] != shape:
            raise TowerError(f"tensor {name!r} has the shape {shapes[name]}, not {shape}")
    foreign = sorted(set(shapes) - set(wanted) - set(unused))
    if foreign:
        raise TowerError(
            f"tensor {foreign[0]!r} has no place in a model of this layout "
            f"({len(foreign)} have none)"
        )


def placed(places: Iterable[Place], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of the model, float32."""
    ready = {}
    for place in places:
        tensor = tensors[place.stored].to(torch.float32)
        if place.transposed:
            tensor = tensor.T
        parts = tensor.chunk(len(place.targets)) if len(place.targets) > 1 else [tensor]
        ready.update({name: part.clone() for name, part in zip(place.targets, parts, strict=True)})
    return ready


def size_of(shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a stored tensor that sizes are read from.

    Raises
    ------
    TowerError
        If it is missing or has not so many dimensions.
    """
    if len(shapes.get(name, ())) != dimensions:
        raise TowerError(
            f"tensor {name!r} is missing or has not {dimensions} dimensions; the sizes of the "
            "model are read from it"
        )
    return shapes[name]


def count_layers(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Count the layers that are stored under ``<prefix>.<number>.``."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    numbers = {int(found[1]) for name in shapes if (found := pattern.match(name))}
    return max(numbers, default=-1) + 1


def build(kind: Any, config: Any, state: dict[str, Tensor], **settings: Any) -> Any:
    """Make a transformers model of exactly these tensors, in evaluation mode.

    Raises
    ------
    TowerError
        If this release of transformers has another place for one of them.
    """
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        output_loading_info=True,
        dtype=torch.float32,
        **settings,
    )
    odd = [
        name
        for group in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for name in map(str, report.get(group) or ())
    ]
    if odd:
        raise TowerError(
            f"this release of transformers does not take {sorted(odd)[0]!r} into "
            f"{kind.__name__} ({len(odd)} tensors)"
        )
    return model.eval()
