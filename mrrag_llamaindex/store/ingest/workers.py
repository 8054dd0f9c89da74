"""Ingest by the workers of a cluster: they embed, and pairs enter the store in their order.

Into a store on a server each worker writes what it has embedded, when its turn has come. A store
of one process is written by that process alone, which gets the vectors of one batch at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mrrag_llamaindex import defaults
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.store.ingest.admission import Missing
from mrrag_llamaindex.store.ingest.batches import (
    Batch,
    EmbeddedBatch,
    Row,
    embed_batch,
    write_batch,
)
from mrrag_llamaindex.store.ingest.ingest import IngestReport, ingest_batches
from mrrag_llamaindex.store.pair import Pair, Skipped
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

if TYPE_CHECKING:
    from mrrag_llamaindex.cluster.pool import Pool
    from mrrag_llamaindex.towers.protocol import DualTower


@dataclass(frozen=True)
class Embedder:
    """Towers in a worker, and how they are used; what a worker makes is `loaded`.

    Attributes
    ----------
    towers, device
        As `load_towers` takes them.
    where
        A store on a server; None: what is embedded is not written here.
    replace, reading
        As in `ingest_pairs`.
    """

    towers: str
    device: str
    where: str | None = None
    replace: bool = False
    reading: ReadingOptions | None = None

    def loaded(self) -> Embedder:
        """Return it with its towers in memory."""
        self.encoder  # noqa: B018 — read once, so that it is made
        return self

    @cached_property
    def encoder(self) -> DualTower:
        """The towers."""
        return load_towers(self.towers, device=self.device)

    @cached_property
    def store(self) -> PairStore:
        """The store, open in this process."""
        assert self.where is not None
        return PairStore.open(self.where)


def server_of(where: str) -> str | None:
    """Return a place that other processes may write to at the same time; None if it is not one.

    Examples
    --------
    >>> server_of("http://db:8000"), server_of("store"), server_of("qdrant:folder")
    ('http://db:8000', None, None)
    """
    try:
        place = urlsplit(where)
        # PostgreSQL's may name a socket behind its question mark.
        return where if place.netloc or place.scheme in ("postgres", "postgresql") else None
    except ValueError:
        return None  # refused where it is opened


def ingest_with_workers(
    pairs: Iterable[Pair | Skipped],
    store: PairStore,
    pool: Pool,
    *,
    writes: bool,
    batch_size: int = defaults.INGEST_BATCH,
    missing: Missing = "skip",
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Do what `ingest_pairs` does, with the same result.

    Parameters
    ----------
    pairs, store, batch_size, missing, strict, progress
        As there, with the same errors.
    pool
        Whose context is an `Embedder`.
    writes
        Whether its workers write.
    """

    def embed(rows: Iterator[Batch]) -> Iterator[EmbeddedBatch]:
        return pool.run(_embed, map(_absolute, rows), finish=_write if writes else None)

    schema = pool.ask(schema_of)
    return ingest_batches(
        pairs,
        store,
        schema.towers_identity,
        embed,
        batch_size=batch_size,
        missing=missing,
        strict=strict,
        progress=progress,
    )


def schema_of(embedder: Embedder, _: None = None) -> StoreSchema:
    """Return the schema of a store for the towers."""
    return StoreSchema.of(embedder.encoder)


def _embed(embedder: Embedder, batch: Batch) -> EmbeddedBatch:
    return embed_batch(embedder.encoder, embedder.reading, embedder.replace, batch)


def _write(embedder: Embedder, batch: EmbeddedBatch) -> EmbeddedBatch:
    return write_batch(embedder.store, batch)


def _absolute(batch: Batch) -> Batch:
    """Name images by their whole paths: a worker is in a folder of its own."""
    return replace(batch, rows=tuple(Row(row.number, _with_path(row.pair)) for row in batch.rows))


def _with_path(pair: Pair) -> Pair:
    if not isinstance(pair.image, (str, os.PathLike)):
        return pair
    return replace(pair, image=str(Path(pair.image).absolute()))
