"""Reading records: by a query vector, with exclusion, or by id.

Exclusion over-fetches and drops. A ``where`` filter would list every matching id first, which
costs 7 to 48 times the query at 100,000 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrrag_llamaindex.store.chroma.record import FINGERPRINT_KEY, PATIENT_KEY, decode
from mrrag_llamaindex.store.hits import Exclusion, Stamp, StoredPair

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

READ_BATCH = 2000
"""Ids asked for at once."""

WHOLE_RECORDS = 256
"""Up to so many candidates come with vectors and texts; of more, only what decides on exclusion."""

_WHOLE = ["distances", "metadatas", "embeddings", "documents"]
_LIGHT = ["distances", "metadatas"]


def search(
    collection: Collection, vector: NDArray[np.float32], k: int, exclude: Exclusion
) -> list[tuple[float, StoredPair]]:
    """Return the k best records that are not excluded, each with ``1 - distance``, best first.

    Parameters
    ----------
    collection
        Space ``ip``, records of length 2n.
    vector
        Fused query, shape (2n,).
    k
        At least 1; fewer are returned only when no more exist.
    exclude
        What is dropped. The number of candidates grows fourfold until k others are found or the
        collection is exhausted.
    """
    wanted = k if not exclude else 2 * k + 8 + len(exclude.pair_ids)
    while True:
        whole = wanted <= WHOLE_RECORDS
        result = cast(
            dict[str, Any],
            collection.query(
                query_embeddings=cast(Any, vector[None]),
                n_results=wanted,
                include=cast(Any, _WHOLE if whole else _LIGHT),
            ),
        )
        rows = {name: result[name][0] for name in ("ids", *(_WHOLE if whole else _LIGHT))}
        kept = _kept_rows(rows, exclude)
        # Fewer than asked for: that was all. (Counting takes longer than the search: 17 ms at
        # 100,000 pairs.)
        if len(kept) >= k or len(rows["ids"]) < wanted:
            return _best(collection, rows, kept, k, whole)
        wanted *= 4


def fetch(collection: Collection, pair_ids: Sequence[str]) -> dict[str, StoredPair]:
    """Return those of the records that exist, in the order asked for."""
    found: dict[str, StoredPair] = {}
    for part in read(collection, pair_ids, ["embeddings", "documents", "metadatas"]):
        for row, pair_id in enumerate(part["ids"]):
            found[pair_id] = _stored(part, row)
    return {pair_id: found[pair_id] for pair_id in pair_ids if pair_id in found}


def stamps(collection: Collection, pair_ids: Sequence[str]) -> dict[str, Stamp]:
    """Return patient and fingerprint of those of the records that exist."""
    found: dict[str, Stamp] = {}
    for part in read(collection, pair_ids, ["metadatas"]):
        for pair_id, metadata in zip(part["ids"], part["metadatas"], strict=True):
            data = metadata or {}
            found[pair_id] = Stamp(data.get(PATIENT_KEY) or None, data.get(FINGERPRINT_KEY) or "")
    return found


def read(
    collection: Collection, pair_ids: Sequence[str], include: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield Chroma's answers to ``get`` for the ids, in batches."""
    ids = list(dict.fromkeys(pair_ids))
    for start in range(0, len(ids), READ_BATCH):
        part = collection.get(ids=ids[start : start + READ_BATCH], include=cast(Any, include))
        yield cast(dict[str, Any], part)


def _kept_rows(rows: dict[str, Any], exclude: Exclusion) -> list[int]:
    if not exclude:
        return list(range(len(rows["ids"])))
    kept = []
    for row, pair_id in enumerate(rows["ids"]):
        if pair_id in exclude.pair_ids:
            continue
        fields = decode(rows["metadatas"][row])
        if not exclude.excludes(pair_id, patient_id=fields.patient_id, study_id=fields.study_id):
            kept.append(row)
    return kept


def _best(
    collection: Collection, rows: dict[str, Any], kept: list[int], k: int, whole: bool
) -> list[tuple[float, StoredPair]]:
    scores = {rows["ids"][row]: 1.0 - float(rows["distances"][row]) for row in kept}
    # Equal scores are put in the order of the ids, so that a result can be repeated.
    best = sorted(scores, key=lambda pair_id: (-scores[pair_id], pair_id))[:k]
    if whole:
        place = {rows["ids"][row]: row for row in kept}
        return [(scores[pair_id], _stored(rows, place[pair_id])) for pair_id in best]
    stored = fetch(collection, best)
    return [(scores[pair_id], stored[pair_id]) for pair_id in best if pair_id in stored]


def _stored(rows: dict[str, Any], row: int) -> StoredPair:
    vector = np.asarray(cast(ArrayLike, rows["embeddings"][row]), dtype=np.float32)
    fields = decode(rows["metadatas"][row])
    half = len(vector) // 2
    return StoredPair(
        pair_id=rows["ids"][row],
        image_vector=vector[:half],
        text_vector=vector[half:],
        report=rows["documents"][row] or "",
        patient_id=fields.patient_id,
        study_id=fields.study_id,
        image_path=fields.image_path,
        missing=fields.missing,
        metadata=fields.metadata,
    )
