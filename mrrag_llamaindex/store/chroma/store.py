"""The pair store: image/report pairs in one Chroma collection, found by one fused query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from numpy.typing import ArrayLike

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.files.line_log import Closing
from mrrag_llamaindex.mcr.score import document_vector
from mrrag_llamaindex.store.chroma import search, writing
from mrrag_llamaindex.store.chroma.connection import Connection
from mrrag_llamaindex.store.chroma.location import Where, store_errors
from mrrag_llamaindex.store.chroma.reader import PairReader
from mrrag_llamaindex.store.chroma.record import encode
from mrrag_llamaindex.store.chroma.schema import HNSWSettings, StoreSchema, check_index
from mrrag_llamaindex.store.hits import Exclusion, Hit, Stamp, StoredPair
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.vectors import check_halves

__all__ = ["Exclusion", "HNSWSettings", "Hit", "PairStore", "Stamp", "StoredPair"]


class PairStore(PairReader, Closing):
    """Pairs of one encoder in one Chroma collection; made by `create`, `open`, `open_or_create`.

    Safe for several threads. One process may write to a folder; others should go through a
    ``chroma run`` server. Chroma has no authentication: keep a server on the loopback address.
    """

    @classmethod
    def create(
        cls,
        where: Where,
        *,
        towers_identity: str,
        towers_source: str,
        dimension: int,
        collection: str = "pairs",
        hnsw: HNSWSettings | None = None,
    ) -> PairStore:
        """Make an empty store.

        Parameters
        ----------
        where
            ``"memory"`` (ends with this object, seen by no other store), a folder,
            ``"http://host:port"`` or a synchronous chromadb client.
        towers_identity, towers_source, dimension
            ``identity``, ``source`` and ``dimension`` of the `DualTower` in use; recorded.
        collection
            Chroma's name for it; a place holds any number of collections. Use one per split or
            tenant: filtering inside a collection is 7 to 48 times slower.
        hnsw
            Index settings, fixed from now on.

        Raises
        ------
        StoreError
            If there is a collection of that name, or the place cannot be used.
        ValueError
            If a setting is out of range.
        """
        hnsw = hnsw or HNSWSettings()
        schema = StoreSchema(towers_identity, towers_source, dimension)
        metadata = schema.to_metadata(hnsw)
        return cls(Connection.create(where, collection, metadata, hnsw.configuration()))

    @classmethod
    def open(cls, where: Where, *, collection: str = "pairs") -> PairStore:
        """Open an existing store; makes nothing, on disk or elsewhere.

        Raises
        ------
        StoreError
            If there is no such store, or it is something else: no pair store, another space than
            ``ip``, vectors of another length than recorded.
        """
        connection = Connection.find(where, collection)
        try:
            store = cls(connection)
            with store_errors(f"reading {store._what}", detail=True):
                check_index(connection.collection, store._schema, store._what)
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def open_or_create(
        cls,
        where: Where,
        *,
        towers_identity: str,
        towers_source: str,
        dimension: int,
        collection: str = "pairs",
        hnsw: HNSWSettings | None = None,
    ) -> PairStore:
        """Open the store if it exists, after checking its towers; else `create` it.

        `hnsw` is used only when the store is made: an index keeps the settings it has.
        """
        if not Connection.present(where, collection):
            return cls.create(
                where,
                towers_identity=towers_identity,
                towers_source=towers_source,
                dimension=dimension,
                collection=collection,
                hnsw=hnsw,
            )
        store = cls.open(where, collection=collection)
        try:
            store.check_towers(towers_identity)
        except StoreError:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Let go of the place; a store in memory ends here. May be called again."""
        self._connection.close()

    def upsert(
        self,
        pairs: Sequence[Pair],
        image_vectors: ArrayLike,
        text_vectors: ArrayLike,
        *,
        fingerprints: Sequence[str] | None = None,
    ) -> None:
        """Write pairs, replacing those whose id is stored already.

        Parameters
        ----------
        pairs
            m pairs with distinct ids.
        image_vectors, text_vectors
            Shape (m, n): unit rows, and exactly zero rows where the pair lacks that half.
        fingerprints
            m digests of the pairs' contents for `stamps`.

        Raises
        ------
        InputError
            If shapes, lengths or ids do not fit. Nothing has been written then.
        StoreError
            If Chroma refuses, or another process is writing. What was sent before stays.
        """
        marks = [""] * len(pairs) if fingerprints is None else list(fingerprints)
        ids = [pair.pair_id for pair in pairs]
        if len(marks) != len(ids) or len(set(ids)) != len(ids):
            raise InputError("upsert needs distinct pair ids, and one fingerprint for each pair")
        image, text = check_halves(pairs, image_vectors, text_vectors, self.dimension)
        vectors = document_vector(image, text)
        records = [encode(pair, mark) for pair, mark in zip(pairs, marks, strict=True)]
        self._connection.hold_for_writing()
        with store_errors(f"writing to {self._what}"):
            writing.write(self.collection, ids, vectors, records)

    def delete(self, pair_ids: Iterable[str]) -> None:
        """Remove pairs; ids that are not stored are ignored."""
        ids = list(dict.fromkeys(pair_ids))
        self._connection.hold_for_writing()
        with store_errors(f"deleting from {self._what}"):
            for start in range(0, len(ids), search.READ_BATCH):
                self.collection.delete(ids=ids[start : start + search.READ_BATCH])
