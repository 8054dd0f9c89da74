"""The conventional way to rank pairs by several similarities, in each database's own client.

One index per modality, three searches (image to report, image to image, text to report), the union
of their results, and the similarities that a search did not return fetched from the other index.
Indexes are made with the settings of the fused one, and are searched as widely. No texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.schema import HNSWSettings
from tests.benchmarks.clustered import K, Vectors

BATCH = 1000


class Side(Protocol):
    """The vectors of one modality, under the numbers of their rows as text."""

    def search(self, vector: Vectors, depth: int) -> dict[str, float]:
        """Return the nearest, each with its inner product."""

    def vectors(self, keys: list[str]) -> tuple[list[str], Any]:
        """Return keys and vectors of those, in one order."""


@dataclass
class Union:
    """Three searches on two sides."""

    image: Side
    text: Side

    def query(
        self, q_image: Vectors, q_text: Vectors, weights: FusionWeights, depth: int
    ) -> list[str]:
        """Return the keys of the K best of the union."""
        asked = ((self.text, q_image), (self.image, q_image), (self.text, q_text))
        known = [side.search(vector, depth) for side, vector in asked]
        candidates = sorted(set().union(*known))
        for scores, (side, vector) in zip(known, asked, strict=True):
            absent = [key for key in candidates if key not in scores]
            if absent:
                keys, found = side.vectors(absent)
                values = np.asarray(found, dtype=np.float32) @ vector
                scores.update(zip(keys, values.tolist(), strict=True))
        a, b, c = weights.as_array()
        fused = {
            key: a * known[0][key] + b * known[1][key] + c * known[2][key] for key in candidates
        }
        return sorted(fused, key=lambda key: -fused[key])[:K]


def _parts(vectors: Vectors) -> Any:
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        yield [str(row) for row in range(start, start + len(part))], part


class ChromaSide:
    """A collection of an embedded Chroma."""

    def __init__(self, folder: Path, name: str, vectors: Vectors, hnsw: HNSWSettings) -> None:
        import chromadb
        from chromadb.config import Settings

        from mrrag_llamaindex.store.chroma.store import index_configuration

        client = chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        self._collection = client.create_collection(
            name, configuration=index_configuration(hnsw), embedding_function=None
        )
        for keys, part in _parts(vectors):
            self._collection.upsert(ids=keys, embeddings=part)

    def search(self, vector: Vectors, depth: int) -> dict[str, float]:
        """Return the nearest, each with its inner product."""
        answer = self._collection.query(
            query_embeddings=vector[None], n_results=depth, include=["distances"]
        )
        pairs = zip(answer["ids"][0], answer["distances"][0], strict=True)
        return {key: 1.0 - distance for key, distance in pairs}

    def vectors(self, keys: list[str]) -> tuple[list[str], Any]:
        """Return keys and vectors of those, in one order."""
        got = self._collection.get(ids=keys, include=["embeddings"])
        return got["ids"], got["embeddings"]


class PostgresSide:
    """A table with an HNSW index, made when the rows are there."""

    def __init__(self, url: str, name: str, vectors: Vectors, hnsw: HNSWSettings) -> None:
        import psycopg
        from psycopg.types import TypeInfo

        from mrrag_llamaindex.store.postgres.connection import VectorDumper

        self._table = f"side_{name}"
        self._connection = connection = psycopg.connect(url, autocommit=True)
        info = TypeInfo.fetch(connection, "vector")
        dumper = type("Dumper", (VectorDumper,), {"oid": info.oid})
        connection.adapters.register_dumper(np.ndarray, dumper)
        connection.execute(
            f"CREATE TABLE {self._table} (key text PRIMARY KEY, v vector({vectors.shape[1]}))"
        )
        with connection.cursor() as cursor:
            for keys, part in _parts(vectors):
                cursor.executemany(
                    f"INSERT INTO {self._table} VALUES (%s, %b)", list(zip(keys, part, strict=True))
                )
        connection.execute(
            f"CREATE INDEX ON {self._table} USING hnsw (v vector_ip_ops) "
            f"WITH (m = {hnsw.max_neighbors}, ef_construction = {hnsw.ef_construction})"
        )
        connection.execute(f"SET hnsw.ef_search = {hnsw.ef_search}")
        connection.execute("SET enable_sort = off")

    def search(self, vector: Vectors, depth: int) -> dict[str, float]:
        """Return the nearest, each with its inner product."""
        rows = self._connection.execute(
            f"SELECT key, -(v <#> %b) FROM {self._table} ORDER BY v <#> %b LIMIT {depth}",
            [vector, vector],
        )
        return dict(rows.fetchall())

    def vectors(self, keys: list[str]) -> tuple[list[str], Any]:
        """Return keys and vectors of those, in one order."""
        from mrrag_llamaindex.store.postgres.connection import vector_of

        with self._connection.cursor(binary=True) as cursor:
            rows = cursor.execute(
                f"SELECT key, v FROM {self._table} WHERE key = ANY (%s)", [keys]
            ).fetchall()
        return [row[0] for row in rows], [vector_of(row[1]) for row in rows]


class QdrantSide:
    """A collection of Qdrant."""

    def __init__(self, client: Any, name: str, vectors: Vectors, hnsw: HNSWSettings) -> None:
        from qdrant_client import models

        self._client, self._name = client, name
        self._options = models.SearchParams(hnsw_ef=hnsw.ef_search)
        graph = models.HnswConfigDiff(m=hnsw.max_neighbors, ef_construct=hnsw.ef_construction)
        client.create_collection(
            name,
            vectors_config=models.VectorParams(
                size=vectors.shape[1], distance=models.Distance.DOT, hnsw_config=graph
            ),
        )
        for keys, part in _parts(vectors):
            client.upsert(name, models.Batch(ids=[int(key) for key in keys], vectors=part.tolist()))

    def search(self, vector: Vectors, depth: int) -> dict[str, float]:
        """Return the nearest, each with its inner product."""
        found = self._client.query_points(
            self._name, query=vector.tolist(), limit=depth, search_params=self._options
        )
        return {str(point.id): point.score for point in found.points}

    def vectors(self, keys: list[str]) -> tuple[list[str], Any]:
        """Return keys and vectors of those, in one order."""
        points = self._client.retrieve(
            self._name, [int(key) for key in keys], with_vectors=True, with_payload=False
        )
        return [str(point.id) for point in points], [point.vector for point in points]


class MilvusSide:
    """A collection of a Milvus server."""

    def __init__(self, client: Any, name: str, vectors: Vectors, hnsw: HNSWSettings) -> None:
        from pymilvus import DataType

        self._client, self._name, self._width = client, name, hnsw.ef_search
        schema = client.create_schema(auto_id=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = client.prepare_index_params()
        index.add_index(
            "v",
            index_type="HNSW",
            metric_type="IP",
            params={"M": hnsw.max_neighbors, "efConstruction": hnsw.ef_construction},
        )
        client.create_collection(name, schema=schema, index_params=index)
        for keys, part in _parts(vectors):
            rows = [{"key": key, "v": row} for key, row in zip(keys, part, strict=True)]
            client.upsert(name, rows)

    def search(self, vector: Vectors, depth: int) -> dict[str, float]:
        """Return the nearest, each with its inner product."""
        options = {"params": {"ef": max(self._width, depth)}}
        found = self._client.search(
            self._name, [vector.tolist()], limit=depth, anns_field="v", search_params=options
        )
        return {hit.id: hit.distance for hit in found[0]}

    def vectors(self, keys: list[str]) -> tuple[list[str], Any]:
        """Return keys and vectors of those, in one order."""
        rows = self._client.get(
            self._name, ids=keys, output_fields=["v"], consistency_level="Eventually"
        )
        return [row["key"] for row in rows], [row["v"] for row in rows]
