"""Milvus, by LlamaIndex's package: what that lacks is asked of the package's own client."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.vector_stores.milvus import MilvusVectorStore
from numpy.typing import NDArray
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.llamaindex.engine import BATCH, Engine
from mrrag_llamaindex.store.llamaindex.milvus import client as clients
from mrrag_llamaindex.store.llamaindex.milvus.collection import (
    ID_FIELD,
    VECTOR_FIELD,
    node_of,
    require_inner_product,
    require_name,
    require_room,
    row_of,
    vector_store,
)
from mrrag_llamaindex.store.llamaindex.milvus.expressions import expression
from mrrag_llamaindex.store.llamaindex.milvus.recency import Recency
from mrrag_llamaindex.store.llamaindex.place import Place, make_private
from mrrag_llamaindex.store.llamaindex.record import ADDED_KEY, ID_KEY, Kind
from mrrag_llamaindex.store.schema import HNSWSettings

MOST_AT_ONCE: Final = 16_384
"""Results of a search, of every Milvus."""

_STRONG: Final = {"consistency_level": "Strong"}
"""For what is listed or counted, or was written here just now: takes a fifth of a second."""

_EVENTUAL: Final = {"consistency_level": "Eventually"}


class MilvusEngine(Engine):
    """A collection of Milvus, of metric ``IP``: on a server, or in a folder."""

    filterable = True

    def __init__(
        self,
        name: str,
        collection: str,
        *,
        uri: str = "",
        path: Path | None = None,
        store: MilvusVectorStore | None = None,
    ) -> None:
        super().__init__(None, name)
        self._collection = collection
        self._uri, self._path = uri, path
        self._client: Any = None
        self._given = store
        self._hnsw: HNSWSettings | None = None
        self._recency = Recency()
        if store is not None:
            self._client = clients.LimitedClient(store.client)
        else:
            require_name(collection)

    @classmethod
    def at(cls, place: Place) -> Self:
        """Return the engine of a URL."""
        uri = place.url or str(place.path)
        return cls(place.name, place.collection, uri=uri, path=place.path)

    @classmethod
    def over(cls, store: MilvusVectorStore) -> Self:
        """Return the engine of an application's own vector store."""
        name = f"collection {store.collection_name!r} of the given MilvusVectorStore"
        if store.enable_sparse or not store.upsert_mode:
            raise StoreError(f"{name}: make it with upsert_mode=True and without enable_sparse")
        return cls(name, store.collection_name, store=store)

    @property
    def kind(self) -> str:
        """The name of the vector store's class."""
        return MilvusVectorStore.__name__

    @property
    def client(self) -> Any:
        """The client, each of whose calls ends; a local store is started by it."""
        self.require_open()
        if self._client is None:
            self._client = clients.connect(self._uri, self._path)
        return self._client

    def exists(self) -> bool:
        """Return whether there is a collection; makes nothing."""
        if self._path is not None and not self._path.exists():
            return False
        with self._asking():
            return bool(self.client.has_collection(self._collection))

    def create(self, length: int, hnsw: HNSWSettings | None) -> HNSWSettings | None:
        """Make a collection of inner product; a given one is taken as it is."""
        if self._given is not None:
            if hnsw is not None:
                raise StoreError(f"{self.name} has an index of its own: leave hnsw out")
            self.check()
            return None
        if self._path is None:
            self._hnsw = hnsw or HNSWSettings()
        elif hnsw is not None:
            raise StoreError(f"{self.name} compares every pair, without an index: leave hnsw out")
        else:
            make_private(self._path)
        with self._asking():
            if self.exists():
                self.check()
                raise StoreError(
                    f"{self.name} exists already, and holds no pairs: choose another collection"
                )
            self._store = self._opened(length)
        return self._hnsw

    def check(self) -> None:
        """Raise `StoreError` if the collection does not rank by inner product."""
        field = getattr(self._given, "embedding_field", VECTOR_FIELD)
        with self._asking():
            require_inner_product(self.client, self._collection, field, self.name)

    def drop(self, node_ids: Sequence[str]) -> None:
        """Remove what `create` has made."""
        if self._given is not None:
            self.delete(node_ids)
            return
        with self._asking():
            self.client.drop_collection(self._collection)

    def close(self) -> None:
        """Release the client, and a local store with the last that has it open."""
        client, self._client = self._client, None
        super().close()
        if client is None or self._given is not None or self._process.behind_fork:
            return
        clients.disconnect(client, self._path)

    def _connected(self) -> MilvusVectorStore:
        return self._given or self._opened(None)

    def _opened(self, length: int | None) -> MilvusVectorStore:
        return vector_store(
            self.client, self._collection, self._uri, self._path, length, self._hnsw
        )

    def add(self, nodes: Sequence[TextNode], replaced: Sequence[str]) -> None:
        """Write nodes: one replaces that of its id."""
        for node in nodes:
            require_room(node)
        store = self.store
        self._recency.touch([node.node_id for node in nodes])
        with self._asking():
            for part in iter_batch(nodes, BATCH):
                self.client.upsert(self._collection, [row_of(node, store) for node in part])

    def get(
        self, node_ids: Sequence[str], *, vectors: bool = True, fresh: bool = True
    ) -> list[BaseNode]:
        """Return those of the nodes that exist; without vectors, without reports as well."""
        fields = ["_node_content", "_node_type"]
        store = self.store
        if vectors:
            fields += [store.text_key, store.embedding_field]
        found: list[BaseNode] = []
        level = _STRONG if fresh and self._recency.of(node_ids) else _EVENTUAL
        with self._asking():
            for ids in iter_batch(node_ids, BATCH):
                rows = self.client.get(
                    self._collection,
                    ids=ids,
                    output_fields=fields,
                    **level,
                )
                found.extend(node_of(row, store) for row in rows)
        return found

    def delete(self, node_ids: Sequence[str]) -> None:
        """Remove those of the nodes that exist."""
        self._recency.touch(node_ids)
        with self._asking():
            for ids in iter_batch(node_ids, BATCH):
                self.client.delete(self._collection, ids=ids)

    def search(
        self,
        vector: NDArray[np.float32],
        count: int,
        kind: Kind,
        filters: Filter | None,
        width: int,
    ) -> list[str]:
        """Return ids of nodes of a kind that are nearest to a vector; 16,384 at most."""
        count = min(count, MOST_AT_ONCE)
        query = VectorStoreQuery(
            query_embedding=vector.tolist(), similarity_top_k=count, output_fields=[ID_FIELD]
        )
        with self._asking():
            found = self.store.query(
                query,
                string_expr=expression(kind, filters),
                milvus_search_config={"params": {"ef": max(width, count)}},
            )
        return list(found.ids or [])

    def listing(self, filters: Filter | None = None) -> list[tuple[int, str]]:
        """Return time and id of all pairs that filters let pass."""
        found: list[tuple[int, str]] = []
        with self._asking():
            rows = self.client.query_iterator(
                self._collection,
                batch_size=2000,
                filter=expression("pair", filters),
                output_fields=[ADDED_KEY, ID_KEY],
                **_STRONG,
            )
            try:
                while batch := rows.next():
                    found.extend((int(row[ADDED_KEY]), str(row[ID_KEY])) for row in batch)
            finally:
                rows.close()
        return found

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of pairs that filters let pass."""
        with self._asking():
            rows = self.client.query(
                self._collection,
                filter=expression("pair", filters),
                output_fields=["count(*)"],
                **_STRONG,
            )
        return int(rows[0]["count(*)"])

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return clients.asking(self.name)
