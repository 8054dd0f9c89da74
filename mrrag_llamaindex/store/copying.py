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
from mrrag_llamaindex.store.backends import NoPlaceError
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.learned_files import LEARNED_FILES, keep_learned, learned_text
from mrrag_llamaindex.store.places import require_kept, without_password
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
    kept
        Learned files that the target keeps as its own, since it holds other pairs as well.
    others
        Pairs of the target that the source has not.
    """

    copied: int
    unchanged: int
    learned: tuple[str, ...]
    left: tuple[str, ...]
    kept: tuple[str, ...] = ()
    others: int = 0


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
        store is damaged or fails, what was written does not come back as it was, or pairs came
        into the source or left it meanwhile.
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
    _check_unchanged(source, target, ids)
    others = len(target) - len(ids)
    learned, left, kept = _copy_learned(source, target, shared=others > 0)
    unchanged = len(ids) - copied
    return CopyReport(copied, unchanged, tuple(learned), tuple(left), tuple(kept), others)


def _check_unchanged(source: PairStore, target: PairStore, ids: list[str]) -> None:
    """Raise `StoreError` unless the source still has the pairs that were copied, and no others."""
    now = source.pair_ids()
    if gone := sorted(set(ids) - set(now)):
        raise StoreError(
            f"{len(gone)} pairs were deleted from {source.name} while it was copied, and may be in "
            f"{target.name}: delete them there ({', '.join(map(repr, gone[:5]))}"
            f"{', ...' if len(gone) > 5 else ''}), and copy again"
        )
    if added := len(set(now) - set(ids)):
        raise StoreError(
            f"{added} pairs were written to {source.name} while it was copied: copy again"
        )


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
    kinds = [[(key, type(value)) for key, value in one.metadata.items()] for one in (pair, other)]
    # For Python, 1, 1.0 and True are equal; for a filter, 1 and True are not.
    return sorted(kinds[0], key=str) == sorted(kinds[1], key=str) and all(
        getattr(pair, name) == getattr(other, name) for name in names
    )


def _both(
    source: PairStore, target: PairStore, ids: list[str]
) -> Iterator[tuple[int, list[StoredPair], dict[str, StoredPair]]]:
    """Yield how many are read, and a batch as the source and as the target hold it."""
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        pairs = list(source.get(part).values())
        yield start + len(part), pairs, target.get([pair.pair_id for pair in pairs])


def _copy_learned(
    source: PairStore, target: PairStore, *, shared: bool
) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the learned files that went along, had no place, and were not replaced.

    `shared`: the target holds pairs of its own. What was learned for those stays: weights and their
    calibration belong together, and so all of it does.
    """
    texts = {name: learned_text(source, name) for name in LEARNED_FILES}
    given = {name: text for name, text in texts.items() if text is not None}
    if shared:
        own = {name: learned_text(target, name) for name in LEARNED_FILES}
        if any(text not in (None, texts[name]) for name, text in own.items()):
            return [], [], list(given)
    learned, left = [], []
    for name, text in given.items():
        try:
            keep_learned(target, name, text)
            learned.append(name)
        except NoPlaceError:
            left.append(name)
    return learned, left, []


def refuse_one_place(source: str, target: str) -> None:
    """Raise `InputError` where a store would be copied onto itself, or into a process's memory."""
    require_kept(target)
    if source.strip().rstrip("/") == target.strip().rstrip("/"):
        raise InputError(
            f"both stores are {without_password(source)!r}: name another place to copy to"
        )
