"""Qdrant, by LlamaIndex's package: what that lacks is asked of the package's own client."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import models as rest
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from typing_extensions import Self

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.files.deadline import Deadline
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.llamaindex.engine import BATCH, Engine
from mrrag_llamaindex.store.llamaindex.place import Place, make_private
from mrrag_llamaindex.store.llamaindex.probe import REMEDIES
from mrrag_llamaindex.store.llamaindex.qdrant.filters import filter_of
from mrrag_llamaindex.store.llamaindex.record import (
    ADDED_KEY,
    FILTER_PREFIX,
    ID_KEY,
    KIND_KEY,
    Kind,
)
from mrrag_llamaindex.store.schema import HNSWSettings

SECONDS: Final = 20.0
"""In which a server has to answer."""

WHOLE_SECONDS: Final = 60.0
"""In which its answer has to be complete, then."""

_KEY: Final = "QDRANT_API_KEY"
_INDEXED: Final = (KIND_KEY, f"{FILTER_PREFIX}patient_id", f"{FILTER_PREFIX}study_id")


class QdrantEngine(Engine):
    """A collection of Qdrant, of `Distance.DOT`: on a server, in a folder, or in memory."""

    filterable = True

    def __init__(
        self,
        name: str,
        collection: str,
        *,
        url: str | None = None,
        folder: Path | None = None,
        client: QdrantClient | None = None,
    ) -> None:
        super().__init__(None, name)
        self._collection = collection
        self._url, self._folder = url, folder
        self._client = client
        self._given = client is not None

    @classmethod
    def at(cls, place: Place) -> Self:
        """Return the engine of a URL."""
        return cls(place.name, place.collection, url=place.url, folder=place.path)

    @classmethod
    def over(cls, store: QdrantVectorStore) -> Self:
        """Return the engine of an application's own vector store, over its client."""
        name = f"collection {store.collection_name!r} of the given QdrantVectorStore"
        if store.enable_hybrid:
            raise StoreError(f"{name}: pairs are found by one vector: leave out enable_hybrid")
        return cls(name, store.collection_name, client=store.client)

    @property
    def kind(self) -> str:
        """The name of the vector store's class."""
        return QdrantVectorStore.__name__

    @property
    def client(self) -> QdrantClient:
        """The client; a folder or a memory is made by it."""
        self.require_open()
        if self._client is None:
            if self._url is not None:
                self._client = QdrantClient(
                    url=self._url,
                    api_key=os.environ.get(_KEY),
                    timeout=int(SECONDS),
                    check_compatibility=False,
                    transport=Deadline(httpx.HTTPTransport(), WHOLE_SECONDS),
                )
            elif self._folder is not None:
                self._client = QdrantClient(
                    path=str(self._folder), force_disable_check_same_thread=True
                )
            else:
                self._client = QdrantClient(location=":memory:")
        return self._client

    def exists(self) -> bool:
        """Return whether there is a collection; makes nothing."""
        if self._folder is not None and not (self._folder / "meta.json").is_file():
            return False
        with self._asking():
            return self.client.collection_exists(self._collection)

    def create(self, length: int, hnsw: HNSWSettings | None) -> HNSWSettings:
        """Make a collection of inner product, and indexes for what is filtered by most."""
        hnsw = hnsw or HNSWSettings()
        graph = rest.HnswConfigDiff(m=hnsw.max_neighbors, ef_construct=hnsw.ef_construction)
        if self._folder is not None:
            make_private(self._folder)
        with self._asking():
            if self.exists():
                self.check()
                raise StoreError(
                    f"{self.name} exists already, and holds no pairs: choose another collection"
                )
            self.client.create_collection(
                self._collection,
                vectors_config=rest.VectorParams(
                    size=length, distance=rest.Distance.DOT, hnsw_config=graph
                ),
            )
            for key in () if self._local else _INDEXED:
                self.client.create_payload_index(
                    self._collection, key, field_schema=rest.PayloadSchemaType.KEYWORD
                )
        return hnsw

    def check(self) -> None:
        """Raise `StoreError` if the collection does not rank by inner product."""
        with self._asking():
            vectors = self.client.get_collection(self._collection).config.params.vectors
        if not isinstance(vectors, rest.VectorParams) or vectors.distance != rest.Distance.DOT:
            how = getattr(getattr(vectors, "distance", None), "value", "several vectors")
            raise StoreError(
                f"{self.name} cannot hold pairs: it ranks by {how.lower()}. Use "
                f"{REMEDIES[QdrantVectorStore.__name__]}"
            )

    def drop(self, node_ids: Sequence[str]) -> None:
        """Remove the collection that `create` has made."""
        with self._asking():
            self.client.delete_collection(self._collection)

    def close(self) -> None:
        """Release the client, unless it is the application's own."""
        client, self._client = self._client, None
        super().close()
        # Behind a fork, all of it belongs to the process that opened it.
        if client is not None and not self._given and not self._process.behind_fork:
            client.close()

    def _connected(self) -> QdrantVectorStore:
        return QdrantVectorStore(self._collection, client=self.client, max_retries=0)

    def add(self, nodes: Sequence[TextNode], replaced: Sequence[str]) -> None:
        """Write nodes: a point replaces the one of its id."""
        with self._asking():
            for rows in iter_batch(nodes, BATCH):
                self.store.add(rows)

    def get(
        self, node_ids: Sequence[str], *, vectors: bool = True, fresh: bool = True
    ) -> list[BaseNode]:
        """Return those of the nodes that exist."""
        found: list[BaseNode] = []
        with self._asking():
            for ids in iter_batch(node_ids, BATCH):
                points = self.client.retrieve(self._collection, ids, with_vectors=vectors)
                found.extend(self.store.parse_to_query_result(points).nodes)
        return found

    def delete(self, node_ids: Sequence[str]) -> None:
        """Remove those of the nodes that exist."""
        with self._asking():
            for ids in iter_batch(node_ids, BATCH):
                self.client.delete(self._collection, ids)

    def search(
        self,
        vector: NDArray[np.float32],
        count: int,
        kind: Kind,
        filters: Filter | None,
        width: int,
    ) -> list[str]:
        """Return ids of nodes of a kind that are nearest to a vector."""
        query = VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=count)
        options: dict[str, Any] = {"qdrant_filters": filter_of(kind, filters)}
        if not self._local:
            options["search_params"] = rest.SearchParams(hnsw_ef=max(width, count))
        with self._asking():
            return list(self.store.query(query, **options).ids or [])

    def listing(self, filters: Filter | None = None) -> list[tuple[int, str]]:
        """Return time and id of all pairs that filters let pass."""
        found: list[tuple[int, str]] = []
        offset: Any = None
        with self._asking():
            while True:
                points, offset = self.client.scroll(
                    self._collection,
                    scroll_filter=filter_of("pair", filters),
                    limit=2000,
                    offset=offset,
                    with_payload=[ADDED_KEY, ID_KEY],
                )
                payloads = [point.payload or {} for point in points]
                found.extend((int(one[ADDED_KEY]), str(one[ID_KEY])) for one in payloads)
                if offset is None:
                    return found

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of pairs that filters let pass."""
        with self._asking():
            wanted = filter_of("pair", filters)
            return self.client.count(self._collection, count_filter=wanted, exact=True).count

    @property
    def _local(self) -> bool:
        return type(self.client._client).__name__ == "QdrantLocal"

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """One call at a time where Qdrant runs in this process; errors in one line."""
        local = self._url is None
        try:
            with self.lock if local else contextlib.nullcontext(), warnings.catch_warnings():
                if local:  # that indexes do nothing there
                    warnings.filterwarnings("ignore", category=UserWarning, module="qdrant_client")
                yield
        except ResponseHandlingException as error:
            reason = type(error.source).__name__
            raise StoreError(
                f"{self.name}: no Qdrant server answers ({reason}). Is it running, and is this its "
                "address? What it has acknowledged is stored; run the command again to go on"
            ) from None
        except json.JSONDecodeError:
            raise StoreError(
                f"{self.name}: what answers sends no JSON. Is it a Qdrant server?"
            ) from None
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise StoreError(
                    f"{self.name}: the server refuses the key: set {_KEY} in the environment"
                ) from None
            raise StoreError(
                f"{self.name}: what answers says {error.status_code} ({error.reason_phrase}). Is "
                "it a Qdrant server?"
            ) from None
