"""Whether a store still holds what was written into it: `mrrag verify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import store_errors
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import KINDS, StoreSchema

_BATCH = 500


@dataclass(frozen=True)
class StoreCheck:
    """A store in which nothing was found wrong.

    Parameters
    ----------
    pairs
        Read back, with vectors and reports.
    unmarked
        Those of them without a checksum, written by an earlier release or another program: of
        these only the vectors' lengths were checked.
    """

    pairs: int
    unmarked: int


def verify_store(
    store: PairStore, progress: Callable[[int, int], None] | None = None
) -> StoreCheck:
    """Read every pair back and compare it with what its record says of it.

    Parameters
    ----------
    store
        An open one.
    progress
        Called with the number of pairs read, and of all.

    Raises
    ------
    StoreError
        At the first thing that is not as it was written, naming it.
    """
    with store_errors(f"checking {store.name}"):
        unmarked = store._check_contents()
    ids = store.pair_ids()
    if len(ids) != len(store) or len(set(ids)) != len(ids):
        raise StoreError(f"{store.name} counts {len(store)} pairs and lists {len(set(ids))}")
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        pairs = store.get(part)
        if len(pairs) != len(part):
            missing = next(name for name in part if name not in pairs)
            raise StoreError(f"{store.name} lists pair {missing!r}, and does not have it")
        for pair in pairs.values():
            if problem := _problem(pair, store.schema):
                raise StoreError(f"{store.name} is damaged: pair {pair.pair_id!r}: {problem}")
        if progress is not None:
            progress(start + len(part), len(ids))
    return StoreCheck(len(ids), unmarked)


def _problem(pair: StoredPair, schema: StoreSchema) -> str:
    if pair.vector.shape != (schema.length,):
        return f"its vector has shape {pair.vector.shape}"
    for kind, name, half in zip(
        KINDS, ("image", "report"), schema.blocks.split(pair.vector), strict=True
    ):
        if pair.missing != name:
            problem = schema.problem(kind, half)
        else:
            problem = f"is not zero, but it lacks the {name}" if half.any() else ""
        if problem:
            return f"the {name} vector {problem}"
    return ""
