"""A collection as LlamaIndex's package lays it out: its index, and a node as a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index.vector_stores.milvus import MilvusVectorStore

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.store.llamaindex.engine import BATCH
from mrrag_llamaindex.store.llamaindex.milvus import client as clients
from mrrag_llamaindex.store.llamaindex.probe import REMEDIES
from mrrag_llamaindex.store.llamaindex.record import ID_KEY
from mrrag_llamaindex.store.schema import HNSWSettings

ID_FIELD: Final = "id"
VECTOR_FIELD: Final = "embedding"

MOST_BYTES: Final = 65_535
"""Of a text."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def require_name(collection: str) -> None:
    """Raise `StoreError` for a name that Milvus does not take."""
    if not _NAME.fullmatch(collection):
        raise StoreError(
            f"collection name {collection!r} is not usable in Milvus: letters, digits and '_', "
            "beginning with a letter"
        )


def require_inner_product(client: Any, collection: str, field: str, name: str) -> None:
    """Raise `StoreError` about the place of a name if a field is not ranked by inner product."""
    indexes = [client.describe_index(collection, one) for one in client.list_indexes(collection)]
    metrics = {item.get("metric_type") for item in indexes if item.get("field_name") == field}
    if metrics != {"IP"}:
        how = ", ".join(sorted(map(str, metrics))) or "nothing (it has no index)"
        raise StoreError(
            f"{name} cannot hold pairs: it ranks by {how}. Use "
            f"{REMEDIES[MilvusVectorStore.__name__]}"
        )


def vector_store(
    client: Any,
    collection: str,
    uri: str,
    path: Path | None,
    length: int | None,
    hnsw: HNSWSettings | None,
) -> MilvusVectorStore:
    """Return LlamaIndex's vector store over a client; a length makes the collection if need be."""
    index: dict[str, Any] = {"index_type": "FLAT"}  # a local graph gives up among few matches
    if hnsw is not None:
        graph = {"M": hnsw.max_neighbors, "efConstruction": hnsw.ef_construction}
        index = {"index_type": "HNSW", **graph}
    store = MilvusVectorStore(
        uri=uri,
        token=clients.token_of(path),
        collection_name=collection,
        dim=length,
        embedding_field=VECTOR_FIELD,
        upsert_mode=True,
        batch_size=BATCH,
        similarity_metric="IP",
        index_config=index,
        use_async_client=False,
        timeout=clients.CONNECT_SECONDS,
        dedicated=True,
    )
    store.client.close()
    store._milvusclient = client
    return store


def require_room(node: TextNode) -> None:
    """Raise `InputError` for a text that is longer than a column."""
    if len(node.text.encode()) > MOST_BYTES:
        raise InputError(
            f"pair {node.metadata[ID_KEY]!r}: Milvus keeps texts of {MOST_BYTES:,} bytes, "
            "and the report is longer: shorten it, or use another store"
        )


def row_of(node: TextNode, store: MilvusVectorStore) -> dict[str, Any]:
    """Return what the package's `add` would write of a node.

    That copies a vector number by number, three times: half of the time of an ingest.
    """
    bare = node.model_copy(update={"embedding": None})
    return {
        **node_to_metadata_dict(bare, remove_text=True, text_field=store.text_key),
        store.text_key: node.text,
        store.embedding_field: np.asarray(node.embedding, dtype=np.float32),
        ID_FIELD: node.node_id,
    }


def node_of(row: Mapping[str, Any], store: MilvusVectorStore) -> BaseNode:
    """Return the node of a row; without text and vector where the row has none."""
    node = metadata_dict_to_node(dict(row), text=row.get(store.text_key))
    node.embedding = row.get(store.embedding_field)
    return node
