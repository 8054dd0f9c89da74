"""Toy towers, a toy generator and a small store, and a mining run that a test can kill.

Run as ``python mining_worker.py OUT SECONDS_PER_QUESTION``: prints a line after each question.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mrrag_llamaindex.learning.mining.mining import mine
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

SIDE = 16


class ToyTowers:
    """Vectors by name: a text is its own name, an image is named by the grey value of a pixel."""

    source = ""
    text_token_limit, long_text = 1000, "truncate"

    def __init__(self, images: dict[int, Any], texts: dict[str, Any], identity: str = "toy@1"):
        self._images, self._texts, self.identity = images, texts, identity
        self.dimension = len(next(iter(images.values())))

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        return np.array([self._images[i.getpixel((0, 0))[0]] for i in images], dtype=np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        return np.array([self._texts[text] for text in texts], dtype=np.float32)


class ToyConfidence:
    """A generator whose confidence in each report is given; None is asked without a report."""

    def __init__(self, by_report: dict[str | None, float | None], seconds: float = 0.0) -> None:
        self.identity = "generator@1"
        self.by_report = by_report
        self.seconds = seconds
        self.asked: list[tuple[str, str, tuple[str | None, ...]]] = []

    def rate(self, image: Any, question: str, answer: str, documents: Any) -> list[float | None]:
        time.sleep(self.seconds)
        self.asked.append((question, answer, tuple(documents)))
        return [self.by_report[document] for document in documents]


def film(grey: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))


def unit(name: str) -> np.ndarray:
    row = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(8)
    return row / np.linalg.norm(row)


def toy_store(pairs: list[Pair], images: Any, texts: Any) -> PairStore:
    store = PairStore.create("memory", StoreSchema("toy@1", "", len(images[0])))
    store.upsert(pairs, np.asarray(images, np.float32), np.asarray(texts, np.float32))
    return store


def run(out: str, seconds: float, progress: Any = None) -> Any:
    """Mine 12 questions over 20 random pairs."""
    reports = [f"report {n}" for n in range(20)]
    pairs = [Pair(f"{n}.png", report, f"p{n}", f"p{n}") for n, report in enumerate(reports)]
    store = toy_store(
        pairs, [unit(f"image {n}") for n in range(20)], [unit(report) for report in reports]
    )
    questions = [GoldQuestion(f"q{n}", film(n), f"question {n}", "yes", f"p{n}") for n in range(12)]
    towers = ToyTowers(
        {n: unit(f"film {n}") for n in range(12)},
        {f"question {n}": unit(f"question {n}") for n in range(12)},
    )
    rates: dict[str | None, float | None] = {None: 0.5}
    rates |= {report: zlib.crc32(report.encode()) % 1000 / 1000 for report in reports}
    confidence = ToyConfidence(rates, seconds)
    settings = MiningSettings(candidates=6, negatives=2)
    return mine(questions, store, towers, confidence, out, settings, progress)


if __name__ == "__main__":
    run(sys.argv[1], float(sys.argv[2]), lambda done, *_: print(done, flush=True))
