"""What a pair store needs of a vector store, by LlamaIndex's interface alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from numpy.typing import NDArray

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.llamaindex.record import ADDED_KEY, ID_KEY, KIND_KEY, Kind, node_id
from mrrag_llamaindex.store.schema import HNSWSettings

BATCH: Final = 500
"""Nodes written, read or deleted at once."""


class Engine:
    """A vector store of LlamaIndex: nodes by id, ids by vector, one call at a time.

    Its interface has no count, no replacement and no collection. What an engine can do better than
    that interface says, a subclass does.

    Parameters
    ----------
    vector_store
        One that keeps texts; None where a subclass makes it when it is first asked for.
    name
        Of the place, for messages.
    """

    filterable = False
    """Whether a node may have keys that others have not, and filters of pairs are understood."""

    def __init__(self, vector_store: BasePydanticVectorStore | None, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._store = vector_store
        self._closed = False
        self._process = ForkGuard()

    @property
    def kind(self) -> str:
        """The name of the vector store's class."""
        return type(self.store).__name__

    @property
    def store(self) -> Any:
        """The vector store; raises `StoreError` once it is closed, and behind a fork."""
        self.require_open()
        if self._store is None:
            self._store = self._connected()
        return self._store

    def require_open(self) -> None:
        """Raise `StoreError` once it is closed, and behind a fork."""
        self._process.check(f"{self.name} was", StoreError)
        if self._closed:
            raise StoreError(f"{self.name} has been closed")

    def _connected(self) -> BasePydanticVectorStore:
        """Return the vector store of a collection that exists."""
        raise NotImplementedError

    def exists(self) -> bool:
        """Return whether there is a collection; makes nothing."""
        try:
            self.store.get_nodes(node_ids=[node_id("manifest", "schema")])
        except StoreError:
            raise
        except Exception:  # each store has its own word for a table that is not there yet
            return False
        return True

    def create(self, length: int, hnsw: HNSWSettings | None) -> HNSWSettings | None:
        """Make an empty collection of vectors of this length; return the settings of its index."""
        if hnsw is not None:
            raise StoreError(f"{self.name} has an index of its own: leave hnsw out")
        if not self.store.stores_text:
            raise StoreError(
                f"{self.name} keeps vectors without the texts (stores_text is False): a pair would "
                "come back without its report"
            )
        return None

    def check(self) -> None:
        """Raise `StoreError` if the collection is known not to rank by inner product."""

    def drop(self, node_ids: Sequence[str]) -> None:
        """Undo `create`: these are all nodes that were written."""
        self.delete(node_ids)

    def close(self) -> None:
        """Release the place; may be called again. An application's own store stays open."""
        self._closed = True
        self._store = None

    def add(self, nodes: Sequence[TextNode], replaced: Sequence[str]) -> None:
        """Write nodes; those of the ids `replaced` are there already."""
        with self.lock:
            # What `add` does with an id that exists is each store's own: a second node, or nothing.
            self.delete(replaced)
            for rows in iter_batch(nodes, BATCH):
                self.store.add(rows)

    def get(
        self, node_ids: Sequence[str], *, vectors: bool = True, fresh: bool = True
    ) -> list[BaseNode]:
        """Return those of the nodes that exist, in any order.

        Parameters
        ----------
        node_ids
            Of any kind.
        vectors
            Whether vectors and texts are wanted.
        fresh
            Whether what another process has written just now must be seen.
        """
        found: list[BaseNode] = []
        with self.lock:
            for ids in iter_batch(node_ids, BATCH):
                found.extend(self.store.get_nodes(node_ids=ids))
        return found

    def delete(self, node_ids: Sequence[str]) -> None:
        """Remove those of the nodes that exist."""
        with self.lock:
            for ids in iter_batch(node_ids, BATCH):
                self.store.delete_nodes(node_ids=ids)

    def search(
        self,
        vector: NDArray[np.float32],
        count: int,
        kind: Kind,
        filters: Filter | None,
        width: int,
    ) -> list[str]:
        """Return ids of nodes of a kind that are nearest to a vector, at most `count`.

        Parameters
        ----------
        vector
            Shape (l,).
        count
            Fewer are returned if there are no more, or no more can be had at once.
        kind
            Of the nodes.
        filters
            What `narrowed` has returned.
        width
            Candidates that an index keeps.
        """
        query = VectorStoreQuery(
            query_embedding=vector.tolist(), similarity_top_k=count, filters=_of_kind(kind)
        )
        with self.lock:
            return list(self.store.query(query).ids or [])

    def listing(self, filters: Filter | None = None) -> list[tuple[int, str]]:
        """Return time and id of all pairs that filters let pass, see `search`; in any order."""
        with self.lock:
            nodes = self.store.get_nodes(node_ids=None, filters=_of_kind("pair"))
        return [(int(node.metadata[ADDED_KEY]), str(node.metadata[ID_KEY])) for node in nodes]

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of pairs that filters let pass."""
        return len(self.listing(filters))


def _of_kind(kind: Kind) -> MetadataFilters:
    wanted = MetadataFilter(key=KIND_KEY, value=kind, operator=FilterOperator.EQ)
    return MetadataFilters(filters=[wanted])
