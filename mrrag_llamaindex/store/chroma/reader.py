"""Reading a pair store: by a fused query, by id, and what it says about itself.

A record's vector is ``[d_i ; d_t]`` in space ``ip``; a query's vector carries the weights
(`score.fused_query`), so ``1 - distance`` is the score of Eq. 1 to float32 precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.score import (
    ALL_TERMS,
    FusionWeights,
    fuse,
    fused_query,
    similarity_terms,
)
from mrrag_llamaindex.store.chroma import search
from mrrag_llamaindex.store.chroma.connection import Connection
from mrrag_llamaindex.store.chroma.location import store_errors
from mrrag_llamaindex.store.chroma.schema import StoreSchema
from mrrag_llamaindex.store.hits import Exclusion, Hit, Stamp, StoredPair
from mrrag_llamaindex.store.vectors import check_query

if TYPE_CHECKING:
    from pathlib import Path

    from chromadb.api.models.Collection import Collection


class PairReader:
    """The reading half of `PairStore`; safe for several threads.

    Parameters
    ----------
    connection
        An open collection.

    Raises
    ------
    StoreError
        If the collection is no pair store.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._what = f"collection {connection.collection.name!r} of {connection.location.name}"
        self._schema = StoreSchema.from_metadata(connection.collection.metadata, self._what)

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

    @property
    def folder(self) -> Path | None:
        """Folder of the store; None for one in memory or on a server."""
        return self._connection.location.folder

    def __len__(self) -> int:
        """Return the number of pairs."""
        with store_errors(f"counting {self._what}"):
            return self.collection.count()

    def __repr__(self) -> str:
        """Return the place and the towers."""
        return f"{type(self).__name__}({self._what}, towers {self.towers_identity!r})"

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
        if not vector.any() or not np.isfinite(vector).all():
            raise InputError(
                "the fusion weights give this question nothing to rank by: the parts it has all "
                "weigh zero, or a weight is beyond float32"
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
        terms = similarity_terms(
            q_image, q_text, stored.image_vector, stored.text_vector, terms=ALL_TERMS
        )
        fused = float(fuse(terms, score)) if isinstance(score, FusionWeights) else score
        return Hit.of(stored, terms, fused)
