"""The fingerprint by which a pair is recognised as stored already."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mrrag_llamaindex.images.load import image_digest
from mrrag_llamaindex.store.pair import Pair

_VERSION = "1"


def fingerprint(pair: Pair) -> str:
    """Return a digest of everything about a pair that reaches the store.

    Parameters
    ----------
    pair
        Its image, if any, is read but not decoded. A moved file is another fingerprint, since
        its path is stored.

    Returns
    -------
    str
        Version and 64 hexadecimal digits of SHA-256.

    Raises
    ------
    ImageError
        If the image cannot be read.
    """
    path = None
    if isinstance(pair.image, (str, os.PathLike)):
        path = str(Path(pair.image).absolute())
    contents = {
        "image": None if pair.image is None else image_digest(pair.image),
        "path": path,
        "report": pair.report,
        "patient": pair.patient_id,
        "metadata": dict(pair.metadata),
    }
    text = json.dumps(contents, sort_keys=True)
    return f"{_VERSION}:{hashlib.sha256(text.encode()).hexdigest()}"
