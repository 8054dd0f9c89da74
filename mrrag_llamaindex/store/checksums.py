"""Checksums of a record, by which a changed bit is no other patient's report."""

from __future__ import annotations

import hashlib
import json


def vector_checksum(values: bytes) -> str:
    """Return the checksum of a vector's little-endian float32 bytes."""
    return hashlib.blake2b(values, digest_size=8).hexdigest()


def text_checksum(*texts: str | None) -> str:
    """Return the checksum of a record's texts, in their order."""
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=8).hexdigest()
