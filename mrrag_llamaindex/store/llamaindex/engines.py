"""Which engine keeps a place: by its URL, or by the class of an application's own vector store."""

from __future__ import annotations

from typing import Any

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.backends import Where
from mrrag_llamaindex.store.llamaindex.engine import Engine
from mrrag_llamaindex.store.llamaindex.place import DEFAULT_COLLECTION, Place


def engine_of(where: Where, collection: str) -> Engine:
    """Return the engine of a place; makes nothing and connects to nothing.

    Raises
    ------
    StoreError
        If its package is not installed, or the place is none.
    """
    if isinstance(where, str):
        place = Place.parse(where, collection)
        package = f"llama-index-vector-stores-{place.engine}"
        try:
            if place.engine == "qdrant":
                from mrrag_llamaindex.store.llamaindex.qdrant.engine import QdrantEngine

                return QdrantEngine.at(place)
            from mrrag_llamaindex.store.llamaindex.milvus.engine import MilvusEngine

            return MilvusEngine.at(place)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{place.name} needs {package} ({error.name} is not installed): "
                f'pip install "mrrag-llamaindex[{place.engine}]"'
            ) from None
    if collection != DEFAULT_COLLECTION:
        raise StoreError(
            f"a vector store of one's own is one collection: leave out collection={collection!r}"
        )
    store: Any = where
    kind = type(store).__name__
    if kind == "QdrantVectorStore":
        from mrrag_llamaindex.store.llamaindex.qdrant.engine import QdrantEngine

        return QdrantEngine.over(store)
    if kind == "MilvusVectorStore":
        from mrrag_llamaindex.store.llamaindex.milvus.engine import MilvusEngine

        return MilvusEngine.over(store)
    return Engine(store, f"the given {kind}")
