"""Writing records: in batches that every kind of Chroma accepts, replacing all of the old ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.store.chroma.record import removals
from mrrag_llamaindex.store.chroma.search import read
from mrrag_llamaindex.store.pair import MetadataValue

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

MAX_RECORDS = 2000
"""Records sent at once; Chroma accepts 5461."""

MAX_BYTES = 16_000_000
"""Estimated size of a request as JSON; a Chroma server accepts 40 MiB."""

_BYTES_PER_FLOAT = 20
_BYTES_PER_CHARACTER = 3


def write(
    collection: Collection,
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    records: Sequence[tuple[str, dict[str, MetadataValue]]],
) -> None:
    """Upsert records in batches.

    Parameters
    ----------
    collection
        Where to.
    ids
        m distinct ids.
    vectors
        Shape (m, 2n), float32.
    records
        m (document, metadata) as `record.encode` returns them.
    """
    sizes = [
        _BYTES_PER_FLOAT * vectors.shape[1]
        + _BYTES_PER_CHARACTER * (len(document) + len(str(metadata["_node_content"])))
        for document, metadata in records
    ]
    for rows in batches(sizes):
        batch = list(ids[rows])
        old = {
            pair_id: metadata or {}
            for part in read(collection, batch, ["metadatas"])
            for pair_id, metadata in zip(part["ids"], part["metadatas"], strict=True)
        }
        metadatas = [
            {**removals(old.get(pair_id, {}), metadata), **metadata}
            for pair_id, (_, metadata) in zip(batch, records[rows], strict=True)
        ]
        collection.upsert(
            ids=batch,
            embeddings=cast(Any, vectors[rows]),
            documents=[document for document, _ in records[rows]],
            metadatas=cast(Any, metadatas),
        )


def batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield consecutive slices of at most `MAX_RECORDS` records and about `MAX_BYTES`.

    A single record larger than that makes a slice of its own.

    Examples
    --------
    >>> list(batches([9_000_000, 9_000_000, 1]))
    [slice(0, 1, None), slice(1, 3, None)]
    """
    start, size = 0, 0
    for row, more in enumerate(sizes):
        if row > start and (row - start == MAX_RECORDS or size + more > MAX_BYTES):
            yield slice(start, row)
            start, size = row, 0
        size += more
    if start < len(sizes):
        yield slice(start, len(sizes))
