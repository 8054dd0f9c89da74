"""Milvus, by LlamaIndex's package: what that lacks is asked of the package's own client."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import math
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index.vector_stores.milvus import MilvusVectorStore
from numpy.typing import NDArray
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.store.filters import Comparison, Filter
from mrrag_llamaindex.store.llamaindex.engine import BATCH, Engine
from mrrag_llamaindex.store.llamaindex.place import Place
from mrrag_llamaindex.store.llamaindex.probe import REMEDIES
from mrrag_llamaindex.store.llamaindex.record import (
    ADDED_KEY,
    FILTER_PREFIX,
    ID_KEY,
    KIND_KEY,
    Kind,
)
from mrrag_llamaindex.store.schema import HNSWSettings

CONNECT_SECONDS: Final = 5.0
SECONDS: Final = 20.0
"""In which a server has to answer: its client would try 75 times, for minutes."""

LOAD_SECONDS: Final = 600.0
"""In which a collection that nobody uses is brought into a server's memory."""

MOST_AT_ONCE: Final = 16_384
"""Results of a search, of every Milvus."""

MOST_BYTES: Final = 65_535
"""Of a text."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f\x7f]*')
_NOT_LOADED: Final = 101
_TOKEN: Final = "MILVUS_TOKEN"
_ID: Final = "id"
_VECTOR: Final = "embedding"
_STRONG: Final = {"consistency_level": "Strong"}
"""For what is listed or counted, or was written here just now: takes a fifth of a second."""

_EVENTUAL: Final = {"consistency_level": "Eventually"}
_RECENT_SECONDS: Final = 10.0
"""Behind a write by which a server shows it to every question; it promises 5."""

_local: Counter[Path] = Counter()
_local_guard = threading.Lock()
"""How often this process has each local store open: pymilvus keeps one server for all."""


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
        self._touched: dict[str, float] | None = None
        if store is not None:
            self._client = _Limited(store.client)
        elif not _NAME.fullmatch(collection):
            raise StoreError(
                f"collection name {collection!r} is not usable in Milvus: letters, digits and '_', "
                "beginning with a letter"
            )

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
            # It would write errors, with what was asked, beside the one that is raised.
            for name in ("pymilvus", *(("grpc._server",) if self._path is not None else ())):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            if self._path is not None:
                with _local_guard:
                    _local[self._path] += 1
            self._client = _Limited(
                MilvusClient(
                    uri=self._uri, token=self._token, timeout=CONNECT_SECONDS, dedicated=True
                )
            )
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
            self._path.parent.mkdir(parents=True, exist_ok=True)
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
        with self._asking():
            names = self.client.list_indexes(self._collection)
            indexes = [self.client.describe_index(self._collection, name) for name in names]
        fields = getattr(self._given, "embedding_field", _VECTOR)
        metrics = {item.get("metric_type") for item in indexes if item.get("field_name") == fields}
        if metrics != {"IP"}:
            how = ", ".join(sorted(map(str, metrics))) or "nothing (it has no index)"
            raise StoreError(
                f"{self.name} cannot hold pairs: it ranks by {how}. Use "
                f"{REMEDIES[MilvusVectorStore.__name__]}"
            )

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
        client.close()
        if self._path is not None:
            with _local_guard:
                _local[self._path] -= 1
                last = not _local[self._path]
            if last:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(str(self._path))

    def _connected(self) -> MilvusVectorStore:
        return self._given or self._opened(None)

    def _opened(self, length: int | None) -> MilvusVectorStore:
        store = MilvusVectorStore(
            uri=self._uri,
            token=self._token,
            collection_name=self._collection,
            dim=length,
            embedding_field=_VECTOR,
            upsert_mode=True,
            batch_size=BATCH,
            similarity_metric="IP",
            index_config=self._index(),
            use_async_client=False,
            timeout=CONNECT_SECONDS,
            dedicated=True,
        )
        store.client.close()
        store._milvusclient = self.client
        return store

    @property
    def _token(self) -> str:
        return os.environ.get(_TOKEN, "") if self._path is None else ""

    def _index(self) -> dict[str, Any]:
        if self._hnsw is None:  # a local index gives up among the few that a filter leaves
            return {"index_type": "FLAT"}
        graph = {"M": self._hnsw.max_neighbors, "efConstruction": self._hnsw.ef_construction}
        return {"index_type": "HNSW", **graph}

    def add(self, nodes: Sequence[TextNode], replaced: Sequence[str]) -> None:
        """Write nodes: one replaces that of its id."""
        for node in nodes:
            if len(node.text.encode()) > MOST_BYTES:
                raise InputError(
                    f"pair {node.metadata[ID_KEY]!r}: Milvus keeps texts of {MOST_BYTES:,} bytes, "
                    "and the report is longer: shorten it, or use another store"
                )
        self._touch([node.node_id for node in nodes])
        with self._asking():
            for part in iter_batch(nodes, BATCH):
                self.client.upsert(self._collection, [self._row(node) for node in part])

    def _row(self, node: TextNode) -> dict[str, Any]:
        """Return what the package's `add` would write of a node.

        That copies a vector number by number, three times: half of the time of an ingest.
        """
        store = self.store
        bare = node.model_copy(update={"embedding": None})
        return {
            **node_to_metadata_dict(bare, remove_text=True, text_field=store.text_key),
            store.text_key: node.text,
            store.embedding_field: np.asarray(node.embedding, dtype=np.float32),
            _ID: node.node_id,
        }

    def _touch(self, node_ids: Sequence[str]) -> None:
        """Note what is written or removed, and forget what was long ago."""
        with self.lock:
            now = time.monotonic()
            before = self._touched or {}
            kept = {name: at for name, at in before.items() if now - at < _RECENT_SECONDS}
            self._touched = {**kept, **dict.fromkeys(node_ids, now)}

    def _recent(self, node_ids: Sequence[str]) -> bool:
        """Whether a question for some nodes has to wait for what was written last.

        The first one does, for what another process has written.
        """
        with self.lock:
            if self._touched is None:
                self._touched = {}
                return True
            now = time.monotonic()
            return any(
                now - self._touched.get(name, -math.inf) < _RECENT_SECONDS for name in node_ids
            )

    def get(
        self, node_ids: Sequence[str], *, vectors: bool = True, fresh: bool = True
    ) -> list[BaseNode]:
        """Return those of the nodes that exist; without vectors, without reports as well."""
        fields = ["_node_content", "_node_type"]
        store = self.store
        if vectors:
            fields += [store.text_key, store.embedding_field]
        found: list[BaseNode] = []
        level = _STRONG if fresh and self._recent(node_ids) else _EVENTUAL
        with self._asking():
            for ids in iter_batch(node_ids, BATCH):
                rows = self.client.get(
                    self._collection,
                    ids=ids,
                    output_fields=fields,
                    **level,
                )
                for row in rows:
                    node = metadata_dict_to_node(row, text=row.get(store.text_key))
                    node.embedding = row.get(store.embedding_field)
                    found.append(node)
        return found

    def delete(self, node_ids: Sequence[str]) -> None:
        """Remove those of the nodes that exist."""
        self._touch(node_ids)
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
            query_embedding=vector.tolist(), similarity_top_k=count, output_fields=[_ID]
        )
        with self._asking():
            found = self.store.query(
                query,
                string_expr=_expression(kind, filters),
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
                filter=_expression("pair", filters),
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
                filter=_expression("pair", filters),
                output_fields=["count(*)"],
                **_STRONG,
            )
        return int(rows[0]["count(*)"])

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn a server that does not answer into one line."""
        try:
            yield
        except (grpc.RpcError, MilvusException) as error:
            if not _unreachable(error):
                # Its own message may repeat what was asked or written.
                code = getattr(error, "code", "")
                raise StoreError(f"{self.name}: Milvus refuses it (code {code})") from None
            raise StoreError(
                f"{self.name}: no Milvus server answers. Is it running, and is this its address? "
                "What it has acknowledged is stored; run the command again to go on"
            ) from None


class _Limited:
    """A client each of whose calls has a limit: by itself, it tries again for minutes.

    A collection that is not in the server's memory, as after a restart, is brought there.
    """

    def __init__(self, client: MilvusClient) -> None:
        self._limited = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._limited, name)
        if not callable(value) or "timeout" not in inspect.signature(value).parameters:
            return value
        return functools.partial(self._call, functools.partial(value, timeout=SECONDS))

    def _call(self, ask: Callable[..., Any], *values: Any, **options: Any) -> Any:
        try:
            return ask(*values, **options)
        except MilvusException as error:
            if error.code != _NOT_LOADED:
                raise
        collection = options.get("collection_name") or values[0]
        self._limited.load_collection(collection, timeout=LOAD_SECONDS)
        return ask(*values, **options)


def _unreachable(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, grpc.RpcError) or any(
        sign in text for sign in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Retry timeout", "connecting")
    )


def _expression(kind: Kind, filters: Filter | None) -> str:
    parts = [f"{KIND_KEY} == {_literal(kind)}"]
    if filters is not None and (own := _condition(filters)) is not None:
        parts.append(own)
    return " and ".join(parts)


def _condition(item: Filter) -> str | None:
    if isinstance(item, Comparison):
        return _comparison(item)
    parts = [_condition(part) for part in item.filters]
    known = [part for part in parts if part is not None]
    if not known or (item.condition == "or" and len(known) < len(parts)):
        return None
    return "(" + f" {item.condition} ".join(known) + ")"


def _comparison(item: Comparison) -> str | None:
    """Return an expression, None where a text holds what its grammar escapes."""
    key = FILTER_PREFIX + item.key
    if item.operator in (">", ">=", "<", "<="):
        return f"{key} {item.operator} {_literal(item.value)}"
    texts = [value for value in item.values if isinstance(value, str)]
    plain = [value for value in texts if _PLAIN.fullmatch(value)]
    if item.operator in ("!=", "nin"):  # what cannot be said is left out later
        return f"{key} not in [{', '.join(map(_literal, plain))}]" if plain else None
    if len(plain) < len(texts):
        return None
    parts = [f"{key} == {_literal(one)}" for one in item.values if not isinstance(one, str)]
    if texts:
        parts.append(f"{key} in [{', '.join(map(_literal, texts))}]")
    return "(" + " or ".join(parts) + ")"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
