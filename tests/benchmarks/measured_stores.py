"""The back ends that `scaling` measures: where they are made, their raw upsert, what they take up.

The raw upsert is that of the database's own client, of the same records into the same collection
(of a `PairStore` that was made for it), prepared before anything is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings
from tests.benchmarks.clustered import K, Vectors
from tests.benchmarks.conventional import (
    ChromaSide,
    MilvusSide,
    PostgresSide,
    QdrantSide,
    Side,
)

Write = Callable[[], Any]
Search = Callable[[Vectors], Any]


class Usage(NamedTuple):
    """Bytes that a collection takes; None where it cannot be told from here."""

    disk: int | None
    memory: int | None


class Measured:
    """A back end.

    Parameters
    ----------
    folder
        For what is made here.
    url
        Of a server that runs already.
    """

    halved = False
    """Whether an index that is made last holds half precision."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def place(self, name: str) -> str | Path:
        """Return where a collection is made."""
        return self.url

    def raw(self, store: Any, records: Sequence[StoredPair]) -> Write:
        """Return what writes records in the database's own way."""
        raise NotImplementedError

    def side(self, name: str, vectors: Vectors, hnsw: HNSWSettings) -> Side:
        """Return an index of one modality."""
        raise NotImplementedError

    def search(self, store: Any, width: int) -> Search | None:
        """Return what asks the fused index for the ids of the nearest in the database's own way.

        None where that is not measured.
        """
        return None

    def without_index(self, store: Any) -> None:
        """Leave the index to `settle`."""
        raise SystemExit(f"{type(self).__name__} has no --index-last: its server makes the index")

    def settle(self, store: Any) -> None:
        """Wait until what was written is in the index."""

    def begin(self) -> None:
        """Note what is taken up before the collection is made."""

    def usage(self, store: Any) -> Usage:
        """Return what the collection takes up."""
        return Usage(None, None)

    def close(self) -> None:
        """End what was started."""


class Chroma(Measured):
    """Chroma in a folder."""

    def place(self, name: str) -> Path:
        """Return a folder of its own."""
        return self.folder / name

    def raw(self, store: Any, records: Sequence[StoredPair]) -> Write:
        """Return `Collection.upsert`."""
        from mrrag_llamaindex.store.chroma.record import encode

        documents, metadatas = zip(*map(encode, records), strict=True)
        ids = [record.pair_id for record in records]
        vectors = [record.vector for record in records]
        return lambda: store.collection.upsert(
            ids=ids, embeddings=vectors, documents=list(documents), metadatas=list(metadatas)
        )

    def search(self, store: Any, width: int) -> Search:
        """Return `Collection.query`; it is as wide as the number asked for."""
        count = max(K, width)
        return lambda vector: store.collection.query(
            query_embeddings=vector[None], n_results=count, include=["distances"]
        )

    def side(self, name: str, vectors: Vectors, hnsw: HNSWSettings) -> Side:
        """Return a collection in one folder for both."""
        return ChromaSide(self.folder / "union", name, vectors, hnsw)

    def usage(self, store: Any) -> Usage:
        """Return the folder's size, and how a process grows that opens it and asks."""
        program = (
            "import sys, psutil, numpy as np, chromadb\n"
            "from chromadb.config import Settings\n"
            "here = lambda: psutil.Process().memory_info().rss\n"
            "settings = Settings(anonymized_telemetry=False)\n"
            "client = chromadb.PersistentClient(sys.argv[1], settings=settings)\n"
            "collection = client.get_collection('pairs', embedding_function=None)\n"
            "before = here()\n"
            "vector = np.ones((1, int(sys.argv[2])), np.float32)\n"
            "for _ in range(20): collection.query(query_embeddings=vector, include=[])\n"
            "print(here() - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(store.folder), str(store.schema.length)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return Usage(_size(store.folder), int(done.stdout))


class Postgres(Measured):
    """PostgreSQL: the programs of pgserver, or of ``MRRAG_POSTGRES``, or a server that runs."""

    _missing = False

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self._server: Any = None
        if not url:
            from tests.store.postgres_server import PostgresServer

            self._server = PostgresServer()
            self.url = self._server.url()
        import psycopg

        self.connection = psycopg.connect(self.url, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def raw(self, store: Any, records: Sequence[StoredPair]) -> Write:
        """Return one transaction of psycopg's `executemany`."""
        from mrrag_llamaindex.store.postgres.record import encode

        rows = [(store._tenant, i, *encode(record)) for i, record in enumerate(records)]

        def write() -> None:
            with store._server.transaction() as connection:
                connection.limit(600)
                connection.cursor().executemany(store._sql.upsert, rows)

        return write

    def search(self, store: Any, width: int) -> Search:
        """Return one statement, on a connection that is set up for it."""
        import numpy as np
        from psycopg.types import TypeInfo

        from mrrag_llamaindex.store.postgres.connection import VectorDumper

        info = TypeInfo.fetch(self.connection, "vector")
        dumper = type("Dumper", (VectorDumper,), {"oid": info.oid})
        self.connection.adapters.register_dumper(np.ndarray, dumper)
        for name, value in store._index.settings(width, False).items():
            self.connection.execute(f"SET {name} = {value}")
        statement = (
            f"SELECT pair_id, -(embedding <#> %b) FROM mrrag.pairs_{store._number} "
            f"ORDER BY embedding <#> %b LIMIT {K}"
        )
        return lambda vector: self.connection.execute(statement, [vector, vector]).fetchall()

    def side(self, name: str, vectors: Vectors, hnsw: HNSWSettings) -> Side:
        """Return a table."""
        return PostgresSide(self.url, name, vectors, hnsw)

    def without_index(self, store: Any) -> None:
        """Drop the index, as docs/stores.md says of a first ingest of very many pairs."""
        self.connection.execute(f"DROP INDEX mrrag.pairs_{store._number}_embedding_idx")
        self._missing = True

    def settle(self, store: Any) -> None:
        """Make the index if it was dropped; let the planner know the table, as autovacuum would."""
        if self._missing:
            from psycopg.sql import Identifier

            table = Identifier("mrrag", f"pairs_{store._number}")
            index = replace(store._index, half=self.halved)
            self.connection.execute(index.statement(table))
        self.connection.execute("ANALYZE")

    def usage(self, store: Any) -> Usage:
        """Return the table's size with all that belongs to it, and its vector index's.

        A search is fast while the latter is in memory.
        """
        table = f"mrrag.pairs_{store._number}"
        disk = self.connection.execute(f"SELECT pg_total_relation_size('{table}')").fetchone()
        index = self.connection.execute(
            "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
            f"WHERE a.amname = 'hnsw' AND indrelid = '{table}'::regclass"
        ).fetchone()
        assert disk is not None
        assert index is not None
        return Usage(int(disk[0]), int(index[0] or 0))

    def close(self) -> None:
        """Stop the server if it was started here."""
        self.connection.close()
        if self._server is not None:
            self._server.close()


class _Engine(Measured):
    """Qdrant or Milvus, by LlamaIndex's package."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self._before = 0

    def _resident(self) -> int | None:
        """Bytes of the process that listens at the URL, if it is on this machine."""
        port = urlsplit(self.url).port
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return int(psutil.Process(one.pid).memory_info().rss)
        return None

    def begin(self) -> None:
        """Note the server's memory and the size of its data (``MRRAG_SERVER_DATA``)."""
        self._before = self._resident() or 0
        self._data = _size(Path(os.environ["MRRAG_SERVER_DATA"])) if self._known else 0

    @property
    def _known(self) -> bool:
        return "MRRAG_SERVER_DATA" in os.environ

    def usage(self, store: Any) -> Usage:
        """Return how the server and its data have grown."""
        now = self._resident()
        disk = _size(Path(os.environ["MRRAG_SERVER_DATA"])) - self._data if self._known else None
        return Usage(disk, None if now is None else now - self._before)

    def _rows(self, records: Sequence[StoredPair]) -> list[tuple[str, Any, dict[str, Any], str]]:
        """Id, vector, metadata as LlamaIndex lays them out, and report."""
        from llama_index.core.vector_stores.utils import node_to_metadata_dict

        from mrrag_llamaindex.store.llamaindex.record import encode

        rows = []
        for number, record in enumerate(records):
            node = encode(record, number, filterable=True)
            values = node_to_metadata_dict(node, remove_text=True)
            rows.append((node.node_id, record.vector, values, record.report))
        return rows


class Qdrant(_Engine):
    """A Qdrant server; without a URL, in memory, which compares every pair."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url or "qdrant::memory:")
        self._client: Any = None

    def raw(self, store: Any, records: Sequence[StoredPair]) -> Write:
        """Return `QdrantClient.upsert`."""
        from qdrant_client import models

        points = [
            models.PointStruct(id=key, vector=vector.tolist(), payload={**values, "text": report})
            for key, vector, values, report in self._rows(records)
        ]
        self._client = store._engine.client
        return lambda: self._client.upsert(store._engine._collection, points)

    def side(self, name: str, vectors: Vectors, hnsw: HNSWSettings) -> Side:
        """Return a collection."""
        return QdrantSide(self._client, name, vectors, hnsw)


class Milvus(_Engine):
    """A Milvus server, or Milvus Lite in a folder, which compares every pair."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url or f"milvus:{folder}/store.db")
        self._client: Any = None

    def raw(self, store: Any, records: Sequence[StoredPair]) -> Write:
        """Return `MilvusClient.upsert`."""
        engine = store._engine
        self._client = engine.client
        rows = [
            {**values, engine.store.text_key: report, "id": key, "embedding": vector}
            for key, vector, values, report in self._rows(records)
        ]
        return lambda: self._client.upsert(engine._collection, rows)

    def side(self, name: str, vectors: Vectors, hnsw: HNSWSettings) -> Side:
        """Return a collection, with its index."""
        side = MilvusSide(self._client, f"side_{name}_{os.getpid()}", vectors, hnsw)
        self._wait(side._name, "v")
        return side

    def settle(self, store: Any) -> None:
        """Let the server seal and index what it holds."""
        self._client = store._engine.client
        self._wait(store._engine._collection, "embedding")

    def _wait(self, collection: str, field: str) -> None:
        import time

        if self.url.startswith("milvus:"):
            return
        self._client.flush(collection, timeout=600)
        for _ in range(600):
            state = self._client.describe_index(collection, field)
            if state.get("state") == "Finished" and not state.get("pending_index_rows"):
                return
            time.sleep(1)
        raise SystemExit(f"no index after ten minutes: {json.dumps(state)}")


STORES: dict[str, type[Measured]] = {
    "chroma": Chroma,
    "postgres": Postgres,
    "qdrant": Qdrant,
    "milvus": Milvus,
}


def _size(folder: Path) -> int:
    """Bytes on disk, holes left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:  # a server tidies up
            continue
    return total


def drop(store: PairStore) -> None:
    """Remove a collection of an engine; the others end with their folder or server."""
    engine = getattr(store, "_engine", None)
    if engine is not None:
        engine.drop([])
    store.close()
