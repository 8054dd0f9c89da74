"""Pairs in this process's memory, searched by an exact scan."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import Where
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

ROUNDING: Final = 1e-5
"""By which two products of one row with a vector of length 1 may differ, and more."""


class NumpyPairStore(PairStore):
    """Pairs in a dictionary and their vectors in one matrix; nothing is approximate.

    Faster than an index up to about 15,000 pairs. The matrix is built anew at the first query
    after a write.
    """

    def __init__(self, schema: StoreSchema) -> None:
        super().__init__("the exact store in memory", schema)
        if schema.hnsw is not None:
            raise StoreError(f"{self.name} has no index: leave hnsw out, or choose another place")
        self._pairs: dict[str, StoredPair] | None = {}
        self._matrix: tuple[list[StoredPair], NDArray[np.float32]] | None = None
        self._lock = threading.Lock()

    @classmethod
    def _create(cls, where: Where, collection: str, schema: StoreSchema) -> Self:
        return cls(schema)

    @classmethod
    def _open(cls, where: Where, collection: str) -> Self:
        raise StoreError(
            "a store in memory cannot be opened again: it ends with the object that made it"
        )

    @classmethod
    def _exists(cls, where: Where, collection: str) -> bool:
        return False

    def close(self) -> None:
        """Let the pairs go. May be called again."""
        with self._lock:
            self._pairs = self._matrix = None

    def _count(self) -> int:
        return len(self._open_pairs())

    def _pair_ids(self) -> Iterable[str]:
        with self._lock:
            return list(self._open_pairs())

    def _fetch(self, pair_ids: Sequence[str], *, complete: bool) -> Iterable[StoredPair]:
        pairs = self._open_pairs()
        return [_own(pair) for pair in map(pairs.get, pair_ids) if pair is not None]

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
        with self._lock:
            if self._matrix is None:
                pairs = list(self._open_pairs().values())
                vectors = [pair.vector for pair in pairs]
                empty = np.zeros((0, self.schema.length), dtype=np.float32)
                self._matrix = pairs, np.stack(vectors) if vectors else empty
            pairs, matrix = self._matrix
        scores = matrix @ vector
        rows = np.arange(len(scores))
        if count < len(scores):
            # All that are equal to the last one come, so that ties are settled by id. The product
            # of a matrix rounds equal rows in several ways, according to where they stand.
            margin = ROUNDING * float(np.linalg.norm(vector))
            rows = np.flatnonzero(scores >= np.partition(scores, -count)[-count] - margin)
        scores = np.einsum("ij,j->i", matrix[rows], vector)
        ranked = zip(scores.tolist(), rows.tolist(), strict=True)
        return [(score, _own(pairs[row])) for score, row in ranked]

    def _write(self, pairs: Sequence[StoredPair]) -> None:
        with self._lock:
            self._open_pairs().update({pair.pair_id: pair for pair in pairs})
            self._matrix = None

    def _delete(self, pair_ids: Sequence[str]) -> None:
        with self._lock:
            pairs = self._open_pairs()
            for pair_id in pair_ids:
                pairs.pop(pair_id, None)
            self._matrix = None

    def _open_pairs(self) -> dict[str, StoredPair]:
        if self._pairs is None:
            raise StoreError(f"{self.name} has been closed")
        return self._pairs


def _own(pair: StoredPair) -> StoredPair:
    """Return a copy: what a caller does with it must not reach the store."""
    return replace(pair, metadata=dict(pair.metadata), vector=pair.vector.copy())
