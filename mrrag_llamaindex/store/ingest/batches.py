"""The stations of one batch on its way into a store: admitted, embedded, written.

Each is a function of what the one before it gave, so that they need not be in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.hits import Fingerprint
from mrrag_llamaindex.store.ingest.admission import Admission, batches, require_patient
from mrrag_llamaindex.store.ingest.embedding import embed_pairs
from mrrag_llamaindex.store.pair import Pair, Skipped, fingerprint

if TYPE_CHECKING:
    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower


@dataclass(frozen=True)
class Row:
    """A numbered pair on its way in."""

    number: int
    pair: Pair


@dataclass(frozen=True)
class Batch:
    """Rows that may enter as far as their table shows.

    Attributes
    ----------
    rows : tuple of Row
    skipped : tuple of Skipped
        Those that may not.
    stored : mapping of str to Fingerprint
        What the store holds under the ids of the rows.
    size : int
        Items that were taken, the skipped ones included.
    """

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    stored: Mapping[str, Fingerprint]
    size: int


@dataclass(frozen=True, eq=False)
class EmbeddedBatch:
    """What is to be written of a batch.

    Attributes
    ----------
    rows : tuple of Row
        m rows.
    image_vectors, text_vectors : ndarray, shape (m, n), float32
    fingerprints : tuple of str
        Of each row.
    skipped : tuple of Skipped
        Those of the batch, and what could not be embedded.
    replaced : int
        Rows whose ids are stored with other contents.
    unchanged : int
        Further rows, which are stored as they are.
    size : int
        As in `Batch`.
    written : bool
        Whether it has been written.
    """

    rows: tuple[Row, ...]
    image_vectors: NDArray[np.float32]
    text_vectors: NDArray[np.float32]
    fingerprints: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    replaced: int
    unchanged: int
    size: int
    written: bool = False


def admitted(
    pairs: Iterable[Pair | Skipped],
    store: PairStore,
    admission: Admission,
    size: int,
    strict: bool,
) -> Iterator[Batch]:
    """Yield the pairs in batches; in strict mode, one with a row that may not enter is the last."""
    done = 0
    for items in batches(pairs, size):
        rows: list[Row] = []
        skipped: list[Skipped] = []
        for place, item in enumerate(items, start=done + 1):
            number = item.row or place
            if isinstance(item, Skipped):
                skipped.append(Skipped(number, item.pair_id, item.reason))
                continue
            try:
                admission.admit(number, item)
                rows.append(Row(number, item))
            except InputError as error:
                skipped.append(Skipped(number, item.pair_id, str(error)))
        if strict and skipped:
            yield Batch((), tuple(skipped), {}, len(items))
            return
        stored = store.fingerprints(row.pair.pair_id for row in rows)
        yield Batch(tuple(rows), tuple(skipped), stored, len(items))
        done += len(items)


def embed_batch(
    towers: DualTower, reading: ReadingOptions | None, replacing: bool, batch: Batch
) -> EmbeddedBatch:
    """Embed what is not stored as it is.

    Parameters
    ----------
    towers, reading
        As in `ingest_pairs`.
    replacing
        Whether a row may replace a pair of another patient.
    batch
        Which one.
    """
    skipped = list(batch.skipped)
    fresh: list[Row] = []
    digests: list[str] = []
    unchanged = 0
    for row in batch.rows:
        known = batch.stored.get(row.pair.pair_id)
        try:
            digest = fingerprint(row.pair, reading)
            if known is not None and not replacing and (why := require_patient(row.pair, known)):
                raise InputError(why)
        except InputError as error:
            skipped.append(Skipped(row.number, row.pair.pair_id, str(error)))
            continue
        if known is not None and known.digest == digest:
            unchanged += 1
        else:
            fresh.append(row)
            digests.append(digest)
    embedded = embed_pairs([row.pair for row in fresh], towers, reading)
    for place, reason in embedded.problems.items():
        skipped.append(Skipped(fresh[place].number, fresh[place].pair.pair_id, reason))
    good = [place for place in range(len(fresh)) if place not in embedded.problems]
    rows = tuple(fresh[place] for place in good)
    return EmbeddedBatch(
        rows,
        embedded.image_vectors[good],
        embedded.text_vectors[good],
        tuple(digests[place] for place in good),
        tuple(skipped),
        sum(row.pair.pair_id in batch.stored for row in rows),
        unchanged,
        batch.size,
    )


def write_batch(store: PairStore, batch: EmbeddedBatch) -> EmbeddedBatch:
    """Write a batch whole; return it without its vectors.

    Texts of pairs that it replaces may still lie on the disk, see `PairStore.upsert`.
    """
    if batch.rows:
        store.upsert(
            [row.pair for row in batch.rows],
            batch.image_vectors,
            batch.text_vectors,
            fingerprints=list(batch.fingerprints),
            erase=False,
        )
    nothing = np.empty((0, 0), np.float32)
    return replace(batch, image_vectors=nothing, text_vectors=nothing, written=True)
