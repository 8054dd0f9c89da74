"""Unit vectors and stores for the retrieval tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore

Vectors = NDArray[np.float32]
TOWERS: dict[str, Any] = {"towers_identity": "toy@1", "towers_source": "", "dimension": 8}


def unit_rows(rows: int, dimension: int = 8, seed: int = 0) -> Vectors:
    values = np.random.default_rng(seed).standard_normal((rows, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def make_pairs(count: int, **fields: Callable[[int], Any]) -> list[Pair]:
    """`count` pairs p0, p1, ...; `fields` overrides a field by a function of the number."""
    made = []
    for i in range(count):
        values: dict[str, Any] = {
            "image": f"images/{i}.png",
            "report": f"report number {i}",
            "pair_id": f"p{i}",
            "patient_id": f"patient{i}",
        }
        values.update({name: function(i) for name, function in fields.items()})
        made.append(Pair(**values))
    return made


@pytest.fixture
def units() -> Callable[..., Vectors]:
    return unit_rows


@pytest.fixture
def pairs() -> Callable[..., list[Pair]]:
    return make_pairs


@pytest.fixture
def towers() -> dict[str, Any]:
    return dict(TOWERS)


@pytest.fixture
def store() -> Iterator[PairStore]:
    with PairStore.create("memory", **TOWERS) as made:
        yield made
