"""Fused retrieval against an exact scan: recall@10 and time, on clustered dual-tower vectors.

    python tests/benchmarks/fused_retrieval.py --pairs 100000 --queries 200 --seed 0
    python tests/benchmarks/fused_retrieval.py --pairs 100000 --queries 200 --seed 0 --raw 128

With ``--raw`` the vectors of an image and a text end in so many numbers of the encoders' own spaces
(`mcr.blocks`), and six weights are tried; a pair stays as long.

For several fusion weights, each question is answered three ways in turn, in one process:

fused
    `PairStore.query`: one search over ``[d_i ; d_t]``, hits with terms, text and metadata.
scan
    The same question to `NumpyPairStore`: one matrix-vector product over all pairs. Exact.
union
    The conventional way, see `conventional`.

Vectors and intervals are described in `clustered`. A place counts as right when its exact score
reaches the tenth best.
Exit status 1 when recall@10 is below .99 for any weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights, document_vector, fused_query
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.clustered import (
    BAR,
    SIX_WEIGHTS,
    WEIGHTS,
    K,
    Synthetic,
    Vectors,
    ratio,
    recall_interval,
    right_places,
    timed,
)
from tests.benchmarks.conventional import ChromaSide, Union

BATCH = 2000


def fill(store: PairStore, image: Vectors, text: Vectors) -> None:
    for low in range(0, len(image), BATCH):
        rows = range(low, min(low + BATCH, len(image)))
        pairs = [Pair(f"{row}.png", "A report. " * 20, str(row)) for row in rows]
        store.upsert(pairs, image[low : low + BATCH], text[low : low + BATCH])


@dataclass
class Outcome:
    """Per question: share of right places, and seconds, for each way."""

    recall: dict[str, NDArray[np.float64]]
    seconds: dict[str, NDArray[np.float64]]


def measure(
    store: PairStore,
    union: Union | None,
    scan: PairStore,
    matrix: Vectors,
    questions: tuple[Vectors, Vectors],
    weights: FusionWeights,
    depth: int,
) -> Outcome:
    ways = ["fused", "scan", *(["union"] if union else [])]
    recall: dict[str, list[float]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}

    for q_image, q_text in zip(*questions, strict=True):
        vector = fused_query(q_image, q_text, weights, store.schema.blocks)
        exact = matrix @ vector
        runs: dict[str, Callable[[], list[int]]] = {
            "fused": lambda i=q_image, t=q_text: [
                int(hit.pair_id) for hit in store.query(i, t, weights, K)
            ],
            "scan": lambda i=q_image, t=q_text: [
                int(hit.pair_id) for hit in scan.query(i, t, weights, K)
            ],
        }
        if union:
            runs["union"] = lambda i=q_image, t=q_text: [
                int(key) for key in union.query(i, t, weights, depth)
            ]
        for way, run in runs.items():
            places, spent = timed(run)
            recall[way].append(right_places(exact, places))
            seconds[way].append(spent)
    return Outcome(
        {way: np.array(values) for way, values in recall.items()},
        {way: np.array(values) for way, values in seconds.items()},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dimension", type=int, default=512, help="n of each tower")
    parser.add_argument("--raw", type=int, default=0, help="of these, the encoder's own")
    parser.add_argument("--ef-search", type=int, default=HNSWSettings().ef_search)
    parser.add_argument("--depth", type=int, default=100, help="results of each union search")
    parser.add_argument("--no-union", action="store_true")
    options = parser.parse_args()
    hnsw = HNSWSettings(ef_search=options.ef_search)
    source = Synthetic(options.dimension, options.seed, options.raw)
    head = options.dimension - options.raw
    blocks = Blocks(head, options.raw, options.raw)
    image, text = source.draw(options.pairs, options.seed + 1)
    questions = source.draw(options.queries, options.seed + 2)
    matrix = document_vector(image, text)
    print(f"seed {options.seed}; {options.pairs:,} pairs of 2 x {options.dimension}, "
          f"{options.raw} of each the encoder's own; "
          f"{options.queries} questions; {hnsw}")  # fmt: skip
    matched = float((image[:1000] * text[:1000]).sum(1).mean())
    other = float((image[:1000] @ text[1000:2000].T).mean())
    within = float((image[:1000] @ image[1000:2000].T).mean())
    print(f"mean cosines: own image/report {matched:.2f}, image/other report {other:.2f}, "
          f"image/other image {within:.2f}")  # fmt: skip
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        towers = {"towers_identity": "synthetic@0", "towers_source": ""}
        store = PairStore.create(
            Path(folder) / "fused",
            StoreSchema(dimension=head, hnsw=hnsw, blocks=blocks, **towers),
        )
        scan = PairStore.create("numpy", StoreSchema(dimension=head, blocks=blocks, **towers))
        start = time.perf_counter()
        fill(store, image, text)
        spent = time.perf_counter() - start
        print(f"written in {spent:.0f} s: {options.pairs / spent:.0f} pairs/s", flush=True)
        union = None
        if not options.no_union and not options.raw:  # three searches know three terms
            sides = (
                ChromaSide(Path(folder) / "union", name, vectors, hnsw)
                for name, vectors in (("image", image), ("text", text))
            )
            union = Union(*sides)
        fill(scan, image, text)
        for vector in questions[0][:3]:  # load the indexes before anything is timed
            for place in (store, scan):
                place.query(vector, vector, blocks.equal_weights(), K)
        worst = 1.0
        print("| weights | recall@10 fused | union | fused ms | scan ms | union ms "
              "| fused/scan | fused/union |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|")
        for values in SIX_WEIGHTS if options.raw else WEIGHTS:
            weights = FusionWeights(*values)
            out = measure(store, union, scan, matrix, questions, weights, options.depth)
            low, high = recall_interval(out.recall["fused"], rng)
            worst = min(worst, float(out.recall["fused"].mean()))
            ms = {way: f"{1e3 * np.median(times):.2f}" for way, times in out.seconds.items()}
            against = ratio(out.seconds["fused"], out.seconds["union"], rng) if union else "-"
            joined = f"{out.recall['union'].mean():.4f}" if union else "-"
            print(
                f"| {values} | {out.recall['fused'].mean():.4f} [{low:.4f}, {high:.4f}] | {joined} "
                f"| {ms['fused']} | {ms['scan']} | {ms.get('union', '-')} "
                f"| {ratio(out.seconds['fused'], out.seconds['scan'], rng)} | {against} |",
                flush=True,
            )
        store.close()
    verdict = "reached" if worst >= BAR else "NOT reached"
    print(f"worst recall@10 {worst:.4f}; bar {BAR}: {verdict}")
    return 0 if worst >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
