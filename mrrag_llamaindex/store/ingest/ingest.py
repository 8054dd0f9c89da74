"""Ingest: pairs in, vectors and records out, one batch at a time.

Each batch is written whole before the next one is begun, and each record carries a fingerprint
of its contents. An ingest that was interrupted is resumed by running it again: what is stored
already is recognised without being embedded, so at most the batch in hand is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.admission import Admission, batches, notes_of, require_patient
from mrrag_llamaindex.store.ingest.embedding import embed_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped, fingerprint

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


@dataclass(frozen=True)
class _Row:
    """A numbered pair on its way in, with the fingerprint of its contents."""

    number: int
    pair: Pair
    fingerprint: str


def ingest_pairs(
    pairs: Iterable[Pair | Skipped],
    store: PairStore,
    towers: DualTower,
    *,
    batch_size: int = defaults.INGEST_BATCH,
    missing: Literal["skip", "keep"] = "skip",
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
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer")
    store.check_towers(towers.identity)
    ingest = _Ingest(store, towers, Admission(missing), strict, replace, reading)
    start = time.perf_counter()
    done = 0
    try:
        for batch in batches(pairs, batch_size):
            ingest.take(batch, first=done + 1)
            done += len(batch)
            if progress is not None:
                progress(done)
    finally:
        if ingest.replaced:
            store.erase_replaced()
    skipped = tuple(sorted(ingest.skipped, key=lambda item: item.row))
    seconds = time.perf_counter() - start
    return IngestReport(
        ingest.added, ingest.updated, ingest.unchanged, skipped, seconds, notes_of(pairs)
    )


@dataclass
class _Ingest:
    """One run: its options, and what became of the rows."""

    store: PairStore
    towers: DualTower
    admission: Admission
    strict: bool
    replace: bool
    reading: ReadingOptions | None
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    replaced: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def take(self, items: Sequence[Pair | Skipped], first: int) -> None:
        """Write one batch, whose first item is row `first`."""
        rows = []
        for place, item in enumerate(items, start=first):
            number = item.row or place
            if isinstance(item, Skipped):
                self._skip(number, item.pair_id, item.reason)
                continue
            try:
                self.admission.admit(number, item)
                rows.append(_Row(number, item, fingerprint(item, self.reading)))
            except InputError as error:
                self._skip(number, item.pair_id, str(error))
        stored = self.store.fingerprints(row.pair.pair_id for row in rows)
        fresh = []
        for row in rows:
            known = stored.get(row.pair.pair_id)
            if known is None:
                fresh.append(row)
            elif not self.replace and (reason := require_patient(row.pair, known)):
                self._skip(row.number, row.pair.pair_id, reason)
            elif known.digest == row.fingerprint:
                self.updated += 1
                self.unchanged += 1
            else:
                fresh.append(row)
        written = self._write(fresh)
        replaced = sum(row.pair.pair_id in stored for row in written)
        self.updated += replaced
        self.replaced += replaced
        self.added += len(written) - replaced

    def _write(self, rows: Sequence[_Row]) -> list[_Row]:
        """Embed and store the rows; return those that were."""
        embedded = embed_pairs([row.pair for row in rows], self.towers, self.reading)
        for place, reason in embedded.problems.items():
            self._skip(rows[place].number, rows[place].pair.pair_id, reason)
        good = [place for place in range(len(rows)) if place not in embedded.problems]
        written = [rows[place] for place in good]
        if written:
            self.store.upsert(
                [row.pair for row in written],
                embedded.image_vectors[good],
                embedded.text_vectors[good],
                fingerprints=[row.fingerprint for row in written],
                erase=False,
            )
        return written

    def _skip(self, number: int, pair_id: str | None, reason: str) -> None:
        skipped = Skipped(number, pair_id, reason)
        if self.strict:
            raise InputError(str(skipped)) from None
        self.skipped.append(skipped)
