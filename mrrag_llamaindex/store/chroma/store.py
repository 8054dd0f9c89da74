"""The pair store in one Chroma collection, of space ``ip``: ``1 - distance`` is the score.

Nothing is excluded by a ``where``, which would list every matching id first: 7 to 48 times the
query at 100,000 pairs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import Where, store_errors
from mrrag_llamaindex.store.chroma.connection import Connection
from mrrag_llamaindex.store.chroma.erasure import erase, index_saves, scrub_index
from mrrag_llamaindex.store.chroma.integrity import SQLITE_FILE, check_folder
from mrrag_llamaindex.store.chroma.record import decode, encode, where_of
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

MAX_RECORDS = 2000
"""Records sent or asked for at once; Chroma accepts 5461."""

MAX_BYTES = 16_000_000
"""Estimated size of a request as JSON; a Chroma server accepts 40 MiB."""

_BYTES_PER_FLOAT = 20
_BYTES_PER_CHARACTER = 3
_COMPLETE = ["metadatas", "embeddings", "documents"]


class ChromaPairStore(PairStore):
    """Pairs in one Chroma collection: in memory, in a folder, on a server or in a given client.

    One process may write to a folder; others should go through a ``chroma run`` server. Chroma
    has no authentication: keep a server on the loopback address.
    """

    def __init__(self, connection: Connection) -> None:
        collection = connection.collection
        name = f"collection {collection.name!r} of {connection.location.name}"
        schema = StoreSchema.from_metadata(collection.metadata, name)
        super().__init__(name, schema, connection.location.folder)
        self._connection = connection
        self._scrubbed: dict[str, int] = {}
        self._replaced: set[str] = set()
        self._writes = threading.RLock()

    @classmethod
    def _create(cls, where: Where, collection: str, schema: StoreSchema) -> Self:
        hnsw = schema.hnsw or HNSWSettings()
        metadata = replace(schema, hnsw=hnsw).to_metadata()
        return cls(Connection.create(where, collection, metadata, index_configuration(hnsw)))

    @classmethod
    def _open(cls, where: Where, collection: str) -> Self:
        connection = Connection.find(where, collection)
        try:
            store = cls(connection)
            saved = {} if store.folder is None else index_saves(store.folder)
            with store_errors(f"reading {store.name}", detail=True):
                store._check_index()  # which may bring the index up to date, and save it
            if store.folder is not None and index_saves(store.folder) != saved:
                connection.scrub()
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def _exists(cls, where: Where, collection: str) -> bool:
        return Connection.present(where, collection)

    @property
    def collection(self) -> Collection:
        """The raw Chroma collection, e.g. for LlamaIndex's ``ChromaVectorStore``."""
        return self._connection.collection

    def close(self) -> None:
        """Release the place; a store in memory ends here. May be called again."""
        self._connection.close()

    def _check_contents(self) -> int:
        if self.folder is None:
            return 0
        check = check_folder(self.folder, self.collection.name, self.name, complete=True)
        if check is None:
            raise StoreError(
                f"{self.name} is being written, or a write was cut short: close what writes to it, "
                "or open it once for writing (`mrrag ingest`), and check it again"
            )
        return check.unmarked

    def _check_index(self) -> None:
        space = (self.collection.configuration_json.get("hnsw") or {}).get("space")
        if space != "ip":
            raise StoreError(
                f"{self.name} has an index of space {space!r}, which ranks pairs with a missing "
                "half wrongly; a pair store needs 'ip': ingest into a new store"
            )
        sample = self.collection.get(limit=1, include=["embeddings"])["embeddings"]
        if sample is not None and len(sample) and len(sample[0]) != self.schema.length:
            raise StoreError(
                f"{self.name} holds vectors of length {len(sample[0])}, but says that its towers "
                f"give {self.schema.length}: something else has written it; ingest again"
            )

    def _check_open(self) -> None:
        with self._connection.reading() as collection:  # of a folder, this looks for its file
            if self.folder is None:
                collection.count()

    def _count(self) -> int:
        with self._connection.reading() as collection:
            return collection.count()

    def _pair_ids(self) -> Iterable[str]:
        with self._connection.reading() as collection:
            return collection.get(include=[])["ids"]

    def _fetch(self, pair_ids: Sequence[str], *, complete: bool) -> Iterator[StoredPair]:
        include = _COMPLETE if complete else _COMPLETE[:1]
        for start in range(0, len(pair_ids), MAX_RECORDS):
            ids = list(pair_ids[start : start + MAX_RECORDS])
            with self._connection.reading() as collection:
                part = cast(Any, collection.get(ids=ids, include=cast(Any, include)))
            yield from map(decode, part["ids"], *(part[name] for name in include))

    def _nearest(
        self,
        vector: NDArray[np.float32],
        count: int,
        filters: Filter | None,
        *,
        complete: bool,
        width: int = 0,
        exclude: Exclusion | None = None,
    ) -> Sequence[tuple[float, StoredPair]]:
        asked = count
        while True:
            found = self._search(vector, asked, filters, complete=complete, width=width)
            live = [(score, pair) for score, pair in found if pair is not None]
            if len(live) >= count or len(found) < asked:
                return live[:count]
            asked = count + len(found) - len(live)

    def _search(
        self,
        vector: NDArray[np.float32],
        count: int,
        filters: Filter | None,
        *,
        complete: bool,
        width: int,
    ) -> list[tuple[float, StoredPair | None]]:
        """Return the nearest; None is one that another process has deleted.

        Chroma's index stays in the memory of a process that searched it, and lacks nothing that
        others delete afterwards: what it finds of those has neither metadata nor document.
        """
        # The search is as wide as the number asked for, where that is above ``ef_search``.
        wide = width > count
        include = [] if wide else _COMPLETE if complete else _COMPLETE[:1]
        with self._connection.reading() as collection:
            found = collection.query(
                query_embeddings=cast(Any, vector[None]),
                n_results=max(count, width),
                where=where_of(filters),
                include=cast(Any, ["distances", *include]),
            )
        result = cast(Any, found)
        ids, distances = result["ids"][0][:count], result["distances"][0][:count]
        rows = zip(ids, *(result[name][0] for name in include), strict=True) if include else ()
        pairs = {row[0]: decode(*row) for row in rows if row[1]}  # every record has metadata
        absent = [pair_id for pair_id in ids if pair_id not in pairs]
        pairs |= {pair.pair_id: pair for pair in self._fetch(absent, complete=complete)}
        return [
            (1.0 - float(distance), pairs.get(pair_id))
            for pair_id, distance in zip(ids, distances, strict=True)
        ]

    def _write(self, pairs: Sequence[StoredPair]) -> None:
        with self._writes:  # nobody writes while what is replaced is erased
            self._write_batches(pairs)

    def _write_batches(self, pairs: Sequence[StoredPair]) -> None:
        self._connection.hold_for_writing()
        records = [encode(pair) for pair in pairs]
        sizes = [
            _BYTES_PER_FLOAT * self.schema.length
            + _BYTES_PER_CHARACTER * (len(document) + len(str(metadata["_node_content"])))
            for document, metadata in records
        ]
        for rows in batches(sizes):
            ids = [pair.pair_id for pair in pairs[rows]]
            earlier = cast(Any, self.collection.get(ids=ids, include=["metadatas"]))
            # Chroma merges metadata on upsert: without None for the keys that are gone, a record
            # would keep the study, the path or the labels of the one that it replaces.
            old = {
                pair_id: dict.fromkeys(metadata or {})
                for pair_id, metadata in zip(earlier["ids"], earlier["metadatas"], strict=True)
            }
            self._replaced.update(old)
            self.collection.upsert(
                ids=ids,
                embeddings=cast(Any, np.stack([pair.vector for pair in pairs[rows]])),
                documents=[document for document, _ in records[rows]],
                metadatas=[
                    {**old.get(pair_id, {}), **metadata}
                    for pair_id, (_, metadata) in zip(ids, records[rows], strict=True)
                ],
            )
        if self.folder is not None:
            self._settle()
            saved = index_saves(self.folder)
            if saved != self._scrubbed:  # most writes save no index
                scrub_index(self.folder)
                self._scrubbed = saved

    def _delete(self, pair_ids: Sequence[str]) -> None:
        with self._writes:
            self._connection.hold_for_writing()
            for start in range(0, len(pair_ids), MAX_RECORDS):
                self.collection.delete(ids=list(pair_ids[start : start + MAX_RECORDS]))
            self._replaced.update(pair_ids)
            self._erase_replaced()

    def _settle(self) -> None:
        """Let Chroma bring its index up to date with what was written.

        Otherwise the next question does that, and may save the index while its files are scrubbed,
        or behind it.
        """
        nothing = np.zeros((1, self.schema.length), dtype=np.float32)
        self.collection.query(query_embeddings=cast(Any, nothing), n_results=1, include=[])

    def _erase_replaced(self) -> None:
        with self._writes:
            if self.folder is not None and self._replaced:
                self._settle()
                erase(self.folder / SQLITE_FILE, str(self.collection.id), sorted(self._replaced))
            self._replaced.clear()


def index_configuration(hnsw: HNSWSettings) -> dict[str, Any]:
    """Return the configuration of a collection.

    The space is always ``ip``: with a missing half, ``cosine`` and ``l2`` rank wrongly.
    """
    return {"hnsw": {"space": "ip", **asdict(hnsw)}}


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield consecutive slices of at most `MAX_RECORDS` records and about `MAX_BYTES`.

    A single record larger than that makes a slice of its own.

    Examples
    --------
    >>> list(batches([9_000_000, 9_000_000, 1]))
    [slice(0, 1, None), slice(1, 3, None)]
    """
    start, total = 0, 0
    for row, size in enumerate(sizes):
        if row > start and (row - start == MAX_RECORDS or total + size > MAX_BYTES):
            yield slice(start, row)
            start, total = row, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
