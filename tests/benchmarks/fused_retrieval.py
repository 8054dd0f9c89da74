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
    The conventional way: one index per modality, three searches (image to report, image to
    image, text to report), the union of their results, and the similarities that a search did
    not return fetched from the other index. No texts.

The vectors are synthetic: a shared latent in uneven clusters, a fixed gap between the modalities,
noise of their own. Real embeddings may be harder or easier. A place counts as right when its
exact score reaches the tenth best. Intervals are 95%: for recall the wider of a bootstrap over
questions and Wilson's over places, for ratios of medians a bootstrap over questions.
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
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings
from numpy.typing import NDArray

from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights, document_vector, fused_query
from mrrag_llamaindex.store.chroma.store import index_configuration
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema

Vectors = NDArray[np.float32]
K = 10
BAR = 0.99
BATCH = 2000
WEIGHTS = [
    (1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.9, 0.05, 2.2),
    (1.0, -0.3, 1.0),
    (1.0, 1.0, -0.5),
    (-1.0, 0.5, 2.0),
]
SIX_WEIGHTS = [
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (0.9, 0.05, 2.2, 0.1, 0.7, 1.1),
    (1.0, -0.3, 1.0, 0.2, -0.4, 1.0),
    (-1.0, 0.5, 2.0, -0.5, 1.0, -0.7),
]


class Synthetic:
    """Draws vectors as a trained dual encoder gives them.

    Parameters
    ----------
    dimension
        n.
    seed
        Fixes clusters, maps and gap.
    raw
        How many of the n are of the modality's own space.
    """

    clusters = 300
    latent = 64

    def __init__(self, dimension: int, seed: int, raw: int = 0) -> None:
        dimension -= raw
        rng = np.random.default_rng(seed)
        self.centres = rng.standard_normal((self.clusters, self.latent))
        self.share = rng.permutation(1.0 / np.arange(1, self.clusters + 1))  # a few large ones
        self.share /= self.share.sum()
        self.shared_map = rng.standard_normal((self.latent, dimension)) / np.sqrt(self.latent)
        self.gap = 0.8 * rng.standard_normal((2, dimension))
        self.raw_maps = rng.standard_normal((2, self.latent, raw)) / np.sqrt(self.latent)

    def draw(self, rows: int, seed: int) -> tuple[Vectors, Vectors]:
        """Return unit image and text vectors, each of shape (rows, n)."""
        rng = np.random.default_rng(seed)
        which = rng.choice(self.clusters, size=rows, p=self.share)
        study = self.centres[which] + 0.5 * rng.standard_normal((rows, self.latent))
        halves = []
        for modality in range(2):
            own = study + 0.4 * rng.standard_normal(study.shape)
            half = own @ self.shared_map + self.gap[modality]
            half += 0.15 * rng.standard_normal(half.shape)
            half /= np.linalg.norm(half, axis=1, keepdims=True)
            if raw := self.raw_maps.shape[2]:
                further = own @ self.raw_maps[modality]
                further += 0.15 * rng.standard_normal((rows, raw))
                further /= np.linalg.norm(further, axis=1, keepdims=True)
                half = np.concatenate([half, further], axis=1)
            halves.append(half.astype(np.float32))
        return halves[0], halves[1]


class Union:
    """The conventional way, over one Chroma collection per modality."""

    def __init__(self, folder: Path, image: Vectors, text: Vectors, hnsw: HNSWSettings) -> None:
        client = chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        self.collections = []
        for name, vectors in (("image", image), ("text", text)):
            collection = client.create_collection(
                name, configuration=index_configuration(hnsw), embedding_function=None
            )
            for start in range(0, len(vectors), BATCH):
                ids = [str(row) for row in range(start, min(start + BATCH, len(vectors)))]
                collection.upsert(ids=ids, embeddings=vectors[start : start + BATCH])
            self.collections.append(collection)

    def query(self, q_image: Vectors, q_text: Vectors, weights: FusionWeights, depth: int) -> list:
        image, text = self.collections
        known: list[dict[str, float]] = []
        for collection, vector in ((text, q_image), (image, q_image), (text, q_text)):
            answer = collection.query(
                query_embeddings=vector[None], n_results=depth, include=["distances"]
            )
            pairs = zip(answer["ids"][0], answer["distances"][0], strict=True)
            known.append({key: 1.0 - distance for key, distance in pairs})
        candidates = sorted(set().union(*known))
        for scores, collection, vector in zip(
            known, (text, image, text), (q_image, q_image, q_text), strict=True
        ):
            absent = [key for key in candidates if key not in scores]
            if absent:
                got = collection.get(ids=absent, include=["embeddings"])
                values = np.asarray(got["embeddings"], dtype=np.float32) @ vector
                scores.update(zip(got["ids"], values.tolist(), strict=True))
        a, b, c = weights.as_array()
        fused = {
            key: a * known[0][key] + b * known[1][key] + c * known[2][key] for key in candidates
        }
        return sorted(fused, key=lambda key: -fused[key])[:K]


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


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


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
        tenth = np.sort(exact)[-K] - 1e-6 * max(1.0, float(np.abs(exact).max()))
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
            recall[way].append(float(np.sum(exact[places] >= tenth)) / K)
            seconds[way].append(spent)
    return Outcome(
        {way: np.array(values) for way, values in recall.items()},
        {way: np.array(values) for way, values in seconds.items()},
    )


def recall_interval(shares: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    means = shares[rng.integers(0, len(shares), (2000, len(shares)))].mean(1)
    n, p, z = K * len(shares), float(shares.mean()), 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    spread = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = np.percentile(means, [2.5, 97.5])
    return min(low, centre - spread), max(high, min(1.0, centre + spread))


def ratio(a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator) -> str:
    rows = rng.integers(0, len(a), (2000, len(a)))
    draws = np.median(a[rows], axis=1) / np.median(b[rows], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{np.median(a) / np.median(b):.3f} [{low:.3f}, {high:.3f}]"


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
            union = Union(Path(folder) / "union", image, text, hnsw)
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
