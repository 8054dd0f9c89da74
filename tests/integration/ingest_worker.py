"""A small deterministic dual encoder, and an ingest with it that a test can kill.

Run as ``python ingest_worker.py TABLE STORE SECONDS_PER_BATCH``: prints a line after each batch.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

DIMENSION = 16


class ToyTowers:
    """Images by their mean colours in 2 x 2 fields, texts by their words; both projected to n.

    Row by row, so that a vector does not depend on the batch in which it was made.
    """

    source, dimension = "", DIMENSION
    text_token_limit, long_text = 1000, "truncate"

    def __init__(self, identity: str = "toy@1", seconds: float = 0.0) -> None:
        self.identity = identity
        self.seconds = seconds
        self.images = self.texts = 0
        self._projection = np.random.default_rng(0).standard_normal((13, DIMENSION))

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        time.sleep(self.seconds)
        self.images += len(images)
        rows = []
        for image in images:
            small = np.asarray(image.resize((2, 2)), dtype=float).ravel() / 255
            rows.append(self._unit(np.append(small, 1.0) @ self._projection))
        return np.stack(rows)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        self.texts += len(texts)
        return np.stack([self._unit(self._words(text)) for text in texts])

    @staticmethod
    def _words(text: str) -> np.ndarray:
        total = np.zeros(DIMENSION)
        for word in text.lower().split():
            total += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIMENSION)
        return total

    @staticmethod
    def _unit(row: np.ndarray) -> np.ndarray:
        return (row / np.linalg.norm(row)).astype(np.float32)


def main(table: str, folder: str, seconds: str) -> None:
    from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
    from mrrag_llamaindex.store.ingest.pair_table import read_pairs
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.store.schema import StoreSchema

    towers = ToyTowers(seconds=float(seconds))
    store = PairStore.open_or_create(folder, StoreSchema(towers.identity, "", DIMENSION))
    ingest_pairs(
        read_pairs(table),
        store,
        towers,
        batch_size=4,
        progress=lambda done: print(done, flush=True),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
