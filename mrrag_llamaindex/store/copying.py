"""From one store to another, of whatever kind: a stream of batches, compared at the end.

Nothing is embedded. What the target holds already as the source does is not written again, so that
a copy that was cut short is resumed by running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

import numpy as np

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.learned_files import LEARNED_FILES, keep_learned, learned_text
from mrrag_llamaindex.store.places import without_password
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

BATCH: Final = 500
"""Pairs in memory at once."""

Doing = Literal["copying", "comparing"]


@dataclass(frozen=True)
class CopyReport:
    """What a copy did; all pairs of the source were read back from the target.

    Parameters
    ----------
    copied
        Pairs that were written.
    unchanged
        Pairs that the target held already.
    learned
        Learned files that went along.
    left
        Learned files that the target has no place for.
    """

    copied: int
    unchanged: int
    learned: tuple[str, ...]
    left: tuple[str, ...]


def target_schema(source: PairStore) -> StoreSchema:
    """Return the schema of a store for the pairs of another, with an index of its own kind."""
    return replace(source.schema, hnsw=None)


def copy_store(
    source: PairStore,
    target: PairStore,
    progress: Callable[[Doing, int, int], None] | None = None,
) -> CopyReport:
    """Copy all pairs into a store that may hold others, and compare them there.

    Parameters
    ----------
    source, target
        Open stores of the same towers.
    progress
        Called with what is being done, the number of pairs that are, and of all.

    Raises
    ------
    StoreError
        If the towers differ, a pair of the target has the id of one of another patient, either
        store is damaged or fails, or what was written does not come back as it was.
    """
    check_same(source, target)
    ids = source.pair_ids()
    copied = 0
    for done, pairs, there in _both(source, target, ids):
        fresh = [pair for pair in pairs if not same(pair, there.get(pair.pair_id))]
        for pair in fresh:
            known = there.get(pair.pair_id)
            if known is not None and known.patient_id not in (None, pair.patient_id):
                raise StoreError(
                    f"pair {pair.pair_id!r} is in {target.name} already, of another patient: copy "
                    "into another store"
                )
        if fresh:
            target.restore(fresh)
            copied += len(fresh)
        if progress is not None:
            progress("copying", done, len(ids))
    if copied:
        target.erase_replaced()
    for done, pairs, there in _both(source, target, ids):
        for pair in pairs:
            if not same(pair, there.get(pair.pair_id)):
                raise StoreError(
                    f"pair {pair.pair_id!r} is not in {target.name} as it is in {source.name}: "
                    "another program writes to one of them; copy again"
                )
        if progress is not None:
            progress("comparing", done, len(ids))
    learned, left = _copy_learned(source, target)
    return CopyReport(copied, len(ids) - copied, tuple(learned), tuple(left))


def check_same(source: PairStore, target: PairStore) -> None:
    """Raise `StoreError` unless vectors of one store mean the same in the other."""
    target.check_towers(source.towers_identity)
    if target.schema.blocks != source.schema.blocks:
        raise StoreError(
            f"the vectors of {source.name} and {target.name} are divided or scaled differently "
            "(blocks): copy into a new store"
        )


def same(pair: StoredPair, other: StoredPair | None) -> bool:
    """Return whether two stored pairs are one in every number and letter."""
    if other is None or not np.array_equal(pair.vector, other.vector):
        return False
    names = (item.name for item in fields(StoredPair) if item.name != "vector")
    return all(getattr(pair, name) == getattr(other, name) for name in names)


def _both(
    source: PairStore, target: PairStore, ids: list[str]
) -> Iterator[tuple[int, list[StoredPair], dict[str, StoredPair]]]:
    """Yield how many are read, and a batch as the source and as the target hold it."""
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        pairs = list(source.get(part).values())
        yield start + len(part), pairs, target.get([pair.pair_id for pair in pairs])


def _copy_learned(source: PairStore, target: PairStore) -> tuple[list[str], list[str]]:
    learned, left = [], []
    for name in LEARNED_FILES:
        text = learned_text(source, name)
        if text is None:
            continue
        try:
            keep_learned(target, name, text)
            learned.append(name)
        except StoreError:
            left.append(name)
    return learned, left


def refuse_one_place(source: str, target: str) -> None:
    """Raise `InputError` where a store would be copied onto itself."""
    if source.strip().rstrip("/") == target.strip().rstrip("/"):
        raise InputError(
            f"both stores are {without_password(source)!r}: name another place to copy to"
        )
