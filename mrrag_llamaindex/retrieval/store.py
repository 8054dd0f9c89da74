"""The pair store: image/report pairs in one Chroma collection, found by one fused query.

A record's vector is ``[d_i ; d_t]`` in space ``ip``; a query's vector carries the weights
(`score.fused_query`), so ``1 - distance`` is the score of Eq. 1 to float32 precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.retrieval import search, writing
from mrrag_llamaindex.retrieval.connection import Connection
from mrrag_llamaindex.retrieval.hits import Exclusion, Hit, Stamp, StoredPair
from mrrag_llamaindex.retrieval.location import Where, store_errors
from mrrag_llamaindex.retrieval.pair import Pair
from mrrag_llamaindex.retrieval.record import encode
from mrrag_llamaindex.retrieval.schema import HNSWSettings, StoreSchema, check_index
from mrrag_llamaindex.retrieval.score import (
    FusionWeights,
    document_vector,
    fuse,
    fused_query,
    similarity_terms,
)
from mrrag_llamaindex.retrieval.vectors import check_halves, check_query

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

__all__ = ["Exclusion", "HNSWSettings", "Hit", "PairStore", "Stamp", "StoredPair"]


class PairStore:
    """Pairs of one encoder in one Chroma collection; made by `create`, `open`, `open_or_create`.

    Safe for several threads. One process may write to a folder; others should go through a
    ``chroma run`` server. Chroma has no authentication: keep a server on the loopback address.

    Parameters
    ----------
    connection
        An open collection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._what = f"collection {connection.collection.name!r} of {connection.location.name}"
        self._schema = StoreSchema.from_metadata(connection.collection.metadata, self._what)

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

    def __enter__(self) -> PairStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the place; a store in memory ends here. May be called again."""
        self._connection.close()

    @property
    def towers_identity(self) -> str:
        """Identity of the towers that made the vectors."""
        return self._schema.towers_identity

    @property
    def towers_source(self) -> str:
        """What `load_towers` takes to get those towers."""
        return self._schema.towers_source

    @property
    def dimension(self) -> int:
        """n, the length of one half; records have length 2n."""
        return self._schema.dimension

    @property
    def collection(self) -> Collection:
        """The raw Chroma collection, e.g. for LlamaIndex's ``ChromaVectorStore``."""
        return self._connection.collection

    def __len__(self) -> int:
        """Return the number of pairs."""
        with store_errors(f"counting {self._what}"):
            return self.collection.count()

    def __repr__(self) -> str:
        """Return the place and the towers."""
        return f"PairStore({self._what}, towers {self.towers_identity!r})"

    def check_towers(self, identity: str) -> None:
        """Raise `StoreError` unless `identity` is that of the towers that made the vectors."""
        if identity != self.towers_identity:
            source = f" (load_towers({self.towers_source!r}))" if self.towers_source else ""
            raise StoreError(
                f"{self._what} was made with towers {self.towers_identity!r}{source}, but "
                f"{identity!r} are in use: their vectors cannot be compared. Use those towers, or "
                "ingest into a new store"
            )

    def pair_ids(self) -> list[str]:
        """Return the ids of all pairs, in the order in which they were added."""
        with store_errors(f"listing {self._what}"):
            return list(self.collection.get(include=[])["ids"])

    def stamps(self, pair_ids: Sequence[str]) -> dict[str, Stamp]:
        """Return patient and fingerprint of those of the pairs that are stored."""
        with store_errors(f"reading {self._what}"):
            return search.stamps(self.collection, pair_ids)

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

    def query(
        self,
        image_vector: ArrayLike | None,
        text_vector: ArrayLike | None,
        weights: FusionWeights,
        k: int,
        exclude: Exclusion | None = None,
    ) -> list[Hit]:
        """Return the k pairs of highest score, best first.

        Parameters
        ----------
        image_vector, text_vector
            q_i and q_t, shape (n,), of unit length; `None` when the question lacks it.
        weights
            The fusion weights.
        k
            How many; fewer are returned only when the store holds no more that may be shown.
        exclude
            Pairs, patients and studies that are dropped, however many pairs they have: more
            candidates are fetched until k others are found.

        Raises
        ------
        InputError
            If a vector is not finite, not of unit length or of another dimension, or if the
            weights leave nothing to rank by.
        """
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
            raise InputError(f"k is {k!r}; it must be a positive integer")
        exclude = exclude or Exclusion()
        q_image, q_text = check_query(image_vector, text_vector, self.dimension)
        vector = fused_query(q_image, q_text, weights)
        if not vector.any():
            raise InputError(
                "the fusion weights give this question nothing to rank by: the parts it has "
                "all weigh zero"
            )
        with store_errors(f"querying {self._what}"):
            found = search.search(self.collection, vector, int(k), exclude)
        return [self._hit(stored, q_image, q_text, score) for score, stored in found]

    def get(self, pair_ids: Sequence[str]) -> dict[str, StoredPair]:
        """Return those of the pairs that are stored, in the order asked for."""
        with store_errors(f"reading {self._what}"):
            return search.fetch(self.collection, pair_ids)

    def score(
        self,
        pair_ids: Sequence[str],
        image_vector: ArrayLike | None,
        text_vector: ArrayLike | None,
        weights: FusionWeights,
    ) -> dict[str, Hit]:
        """Return the given pairs as scored hits, exactly, without searching.

        Parameters
        ----------
        pair_ids
            Ids that some other retriever found; unknown ones are left out of the result.
        image_vector, text_vector, weights
            As in `query`.
        """
        q_image, q_text = check_query(image_vector, text_vector, self.dimension)
        return {
            pair_id: self._hit(stored, q_image, q_text, weights)
            for pair_id, stored in self.get(pair_ids).items()
        }

    def _hit(
        self,
        stored: StoredPair,
        q_image: NDArray[np.float32] | None,
        q_text: NDArray[np.float32] | None,
        score: float | FusionWeights,
    ) -> Hit:
        terms = similarity_terms(q_image, q_text, stored.image_vector, stored.text_vector)
        fused = float(fuse(terms, score)) if isinstance(score, FusionWeights) else score
        return Hit.of(stored, terms, fused)
