"""How much faster an ingest is with more workers, where embedding is what takes the time.

The encoder sleeps, so that neither cores nor a GPU are what limits it: what is measured is what
Ray, the pool and the single writer cost. Starting workers is left out, as for a long run.

    python -m tests.benchmarks.ray_speedup --pairs 1600 --workers 2 4
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from mrrag_llamaindex.cluster.connection import connected
from mrrag_llamaindex.cluster.pool import Pool
from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
from mrrag_llamaindex.store.ingest.workers import Embedder, ingest_with_workers, schema_of
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

BATCH = 16


class SleepingTowers:
    """Unit vectors of the input's own digest, after a while."""

    source = ""
    identity = "sleeping@0000000000000000"
    dimension = 64
    text_token_limit = 512
    long_text = "truncate"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> Any:
        time.sleep(self.seconds * len(images))
        return self._units([sum(image.getpixel((0, 0))) for image in images])

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        return self._units([len(text) for text in texts])

    def _units(self, seeds: Sequence[int]) -> Any:
        rows = np.array([np.random.default_rng(seed).normal(size=64) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class SleepingEmbedder(Embedder):
    """An `Embedder` whose towers sleep."""

    seconds: float = 0.0

    @cached_property
    def encoder(self) -> Any:
        """The towers."""
        return SleepingTowers(self.seconds)


def pairs(count: int) -> Iterator[Pair]:
    for n in range(count):
        image = Image.new("RGB", (32, 32), (n % 256, n // 256 % 256, 7))
        yield Pair(image, "No effusion. " * (1 + n % 7), f"p{n}", f"patient{n}")


def speedups(count: int, seconds: float, workers: Sequence[int]) -> dict[str, Any]:
    """Return seconds by number of workers, 0 for one process, and how many times faster each is."""
    with PairStore.create("memory", StoreSchema.of(SleepingTowers(0.0))) as store:
        started = time.perf_counter()
        ingest_pairs(pairs(count), store, SleepingTowers(seconds), batch_size=BATCH)
        times = {0: time.perf_counter() - started}
        ids = store.pair_ids()
    same = []
    with connected() as ray:
        for number in workers:
            make = SleepingEmbedder("", "cpu", seconds=seconds).loaded
            with Pool(ray, make, number, cpus=0.1) as pool:
                list(pool.run(_meet, range(4 * number)))
                with PairStore.create("memory", pool.ask(schema_of)) as store:
                    started = time.perf_counter()
                    ingest_with_workers(pairs(count), store, pool, writes=False, batch_size=BATCH)
                    times[number] = time.perf_counter() - started
                    same.append(store.pair_ids() == ids)
    return {
        "pairs": count,
        "seconds_per_pair": seconds,
        "seconds": times,
        "times_faster": {number: times[0] / times[number] for number in workers},
        "same_order": all(same),
    }


def _meet(_: Any, number: int) -> int:
    """Wait until all workers have begun."""
    time.sleep(2.0)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=960)
    parser.add_argument("--seconds", type=float, default=0.03, help="of each pair")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    arguments = parser.parse_args()
    # By its name, which workers can import.
    from tests.benchmarks import ray_speedup

    result = ray_speedup.speedups(arguments.pairs, arguments.seconds, arguments.workers)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
