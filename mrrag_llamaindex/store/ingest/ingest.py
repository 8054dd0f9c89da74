"""Ingest: pairs in, vectors and records out, one batch at a time.

Each batch is written whole before the next one is begun, and each record carries a fingerprint
of its contents. An ingest that was interrupted is resumed by running it again: what is stored
already is recognised without being embedded, so at most the batch in hand is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.admission import Admission, Missing, notes_of
from mrrag_llamaindex.store.ingest.batches import (
    Batch,
    EmbeddedBatch,
    admitted,
    embed_batch,
    write_batch,
)
from mrrag_llamaindex.store.pair import Pair, Skipped

if TYPE_CHECKING:
    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Parameters
    ----------
    added
        Rows whose id was not in the store.
    updated
        Rows whose id was, including the `unchanged` ones.
    unchanged
        Rows that were stored with the same contents, and so were not embedded again.
    skipped
        Rows that did not enter the store, in order, with the reasons.
    seconds
        Wall time.
    notes
        What the table's reader took in another way than it stands there, with the rows.
    """

    added: int
    updated: int
    unchanged: int
    skipped: tuple[Skipped, ...]
    seconds: float
    notes: tuple[str, ...] = ()


def ingest_pairs(
    pairs: Iterable[Pair | Skipped],
    store: PairStore,
    towers: DualTower,
    *,
    batch_size: int = defaults.INGEST_BATCH,
    missing: Missing = "skip",
    strict: bool = False,
    replace: bool = False,
    reading: ReadingOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Embed pairs and write them into a store.

    Parameters
    ----------
    pairs
        In any number; read one batch at a time. `Skipped` items (rows that a table reader could
        not make a pair of) are carried over into the report. Pairs that name no row are numbered
        from 1.
    store
        Made with the same towers.
    towers
        The dual encoder.
    batch_size
        Pairs embedded and written at once: what an interruption can cost.
    missing
        What to do with a pair that has no image, or no report. ``"skip"`` lists it. ``"keep"``
        stores a zero vector for that half, whose similarities are then exactly 0. Mind what this
        does to the ranking: with weights (1, 1, 1) such pairs hardly ever reach the top, because
        their terms are 0 where others have positive ones; with a negative weight on a term they
        flood it (98% of the top 10 at image_image = -0.3 in a measurement), because others are
        pushed below 0. A file that should be there and cannot be read is not a missing half: that
        row is always skipped.
    strict
        Raise instead of skipping, at the first such row that its batch shows. Batches before it
        stay written.
    replace
        Whether an id that is stored with another patient may be overwritten. By default such a
        row is skipped, since two patients must never be mixed.
    reading
        Window and frame of the images. Pairs that were stored with others are embedded again.
    progress
        Called after each batch with the number of rows handled so far.

    Raises
    ------
    StoreError
        If the store was made with other towers, or cannot be written.
    InputError
        In strict mode, for the first row that cannot enter. If `pairs` raises it: what came before
        is written then.
    ValueError
        If an option is out of range.
    """
    embed = partial(embed_batch, towers, reading, replace)
    return ingest_batches(
        pairs,
        store,
        towers.identity,
        lambda rows: map(embed, rows),
        batch_size=batch_size,
        missing=missing,
        strict=strict,
        progress=progress,
    )


def ingest_batches(
    pairs: Iterable[Pair | Skipped],
    store: PairStore,
    towers_identity: str,
    embed: Callable[[Iterator[Batch]], Iterator[EmbeddedBatch]],
    *,
    batch_size: int = defaults.INGEST_BATCH,
    missing: Missing = "skip",
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Write pairs into a store, whoever embeds them.

    Parameters
    ----------
    pairs, store, batch_size, missing, strict, progress
        As in `ingest_pairs`, whose errors these are, too.
    towers_identity
        Of what embeds.
    embed
        Takes batches, some of them ahead of time, and gives them back embedded, in their order.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer")
    store.check_towers(towers_identity)
    start = time.perf_counter()
    added = updated = unchanged = done = 0
    skipped: list[Skipped] = []
    try:
        for batch in embed(admitted(pairs, store, Admission(missing), batch_size, strict)):
            if strict and batch.skipped:
                raise InputError(str(batch.skipped[0]))
            if not batch.written:
                write_batch(store, batch)
            skipped += batch.skipped
            added += len(batch.rows) - batch.replaced
            updated += batch.replaced + batch.unchanged
            unchanged += batch.unchanged
            done += batch.size
            if progress is not None:
                progress(done)
    finally:
        if updated > unchanged:
            store.erase_replaced()
    rows = tuple(sorted(skipped, key=lambda item: item.row))
    seconds = time.perf_counter() - start
    return IngestReport(added, updated, unchanged, rows, seconds, notes_of(pairs))
