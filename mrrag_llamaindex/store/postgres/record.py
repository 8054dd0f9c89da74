"""How a pair is written as a row, and read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.checksums import text_checksum, vector_checksum
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.postgres.connection import vector_of

WRITTEN: Final = (
    "pair_id",
    "patient_id",
    "study_id",
    "image_path",
    "missing",
    "metadata",
    "report",
    "fingerprint",
    "checksum",
    "embedding",
)
"""Columns of a row as `encode` gives it."""

BRIEF: Final = "pair_id, patient_id, image_path, missing, metadata::text, fingerprint"
COMPLETE: Final = f"{BRIEF}, report, checksum, embedding"
"""Columns that `decode` takes."""


def encode(pair: StoredPair) -> tuple[Any, ...]:
    """Return the values of a pair's row, in the order of `WRITTEN`."""
    # As text, and not as JSONB, which keeps neither the order nor which numbers were integers.
    metadata = json.dumps(pair.metadata, ensure_ascii=False)
    return (
        pair.pair_id,
        pair.patient_id,
        pair.study_id,
        pair.image_path,
        pair.missing,
        metadata,
        pair.report,
        pair.fingerprint,
        _checksum(pair, metadata),
        pair.vector,
    )


def decode(row: Sequence[Any]) -> StoredPair:
    """Return what `encode` was given, from the columns `BRIEF` or `COMPLETE`.

    Raises
    ------
    StoreError
        If a complete row does not have the checksum that it was written with.
    """
    pair_id, patient_id, image_path, missing, metadata, fingerprint, *rest = row
    report, checksum, vector = rest or ("", None, None)
    pair = StoredPair(
        pair_id=pair_id,
        report=report,
        patient_id=patient_id,
        image_path=image_path,
        missing=missing,
        metadata=json.loads(metadata),
        vector=np.zeros(0, np.float32) if vector is None else vector_of(vector),
        fingerprint=fingerprint,
    )
    if vector is not None and checksum != _checksum(pair, metadata):
        raise StoreError(
            f"the record of pair {pair_id!r} is not as it was written: the store is damaged, or "
            "another program has changed it; see `mrrag verify`"
        )
    return pair


def _checksum(pair: StoredPair, metadata: str) -> str:
    texts = (pair.pair_id, pair.patient_id, pair.image_path, pair.missing, metadata, pair.report)
    return vector_checksum(pair.vector.astype("<f4").tobytes()) + text_checksum(*texts)
