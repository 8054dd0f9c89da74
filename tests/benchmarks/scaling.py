"""How cost grows: ingest, questions, memory and disk of each back end, on clustered vectors.

    python tests/benchmarks/scaling.py --store chroma --pairs 10000 --dim 512 --seed 0
    python tests/benchmarks/scaling.py --store postgres --pairs 10000,100000 --dim 128 --seed 0
    python tests/benchmarks/scaling.py --store milvus --url milvus+http://127.0.0.1:19530 --json

PostgreSQL is started here (the programs of pgserver, or those that ``MRRAG_POSTGRES`` names), or is
the one of ``--url``; Qdrant and Milvus are servers at ``--url``, or their local modes, which have
no index. For each number of pairs:

ingest
    Batches of an ingest (what is known of them is asked, they are checked and written) against the
    database's own upsert of the same records, in turn, into two collections that grow alike.
questions
    One fused question against an exact scan (recall@10) and against the conventional union of three
    searches (`conventional`), for eight weightings; the same with a filter that one pair in a
    hundred matches; and the database's own search of the fused index for ids alone, which is the
    least that a fused question can take.
room
    Disk, and memory of the process that searches; for PostgreSQL the size of the vector index.

Exit status 1 where a bar is missed: recall@10 .99, ingest .9 of the raw upsert, a fused question .2
of the union.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from mrrag_llamaindex import defaults
from mrrag_llamaindex.mcr.score import FusionWeights, document_vector, fused_query
from mrrag_llamaindex.store.filters import Comparison
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.clustered import (
    WEIGHTS,
    K,
    Synthetic,
    Vectors,
    ratio,
    recall_interval,
    right_places,
    timed,
)
from tests.benchmarks.conventional import Union
from tests.benchmarks.measured_stores import STORES, Measured, drop

DEPTH = 100
"""Results of each search of the union."""

WARDS = 100
"""A filter selects one of them."""

BARS = {"recall": 0.99, "ingest": 0.9, "union": 0.2}


def pairs_of(rows: range) -> list[Pair]:
    """Pairs with a short report and a ward."""
    return [
        Pair(f"{row}.png", "A report. " * 20, str(row), f"p{row // 4}", {"ward": row % WARDS})
        for row in rows
    ]


def write(store: PairStore, rows: range, image: Vectors, text: Vectors) -> None:
    """Write as an ingest does, behind the encoder."""
    pairs = pairs_of(rows)
    store.fingerprints([pair.pair_id for pair in pairs])
    part = slice(rows.start, rows.stop)
    store.upsert(pairs, image[part], text[part], erase=False)


class Run:
    """One back end, one number of pairs."""

    def __init__(self, options: argparse.Namespace, measured: Measured, count: int) -> None:
        self.options, self.measured, self.count = options, measured, count
        self.schema = StoreSchema("synthetic@0", "", options.dim, _settings(options))
        source = Synthetic(options.dim, options.seed)
        self.image, self.text = source.draw(count, options.seed + 1)
        self.questions = source.draw(options.queries, options.seed + 2)
        self.rng = np.random.default_rng(options.seed)

    def store(self) -> PairStore:
        """Return an empty store."""
        name = f"s{uuid.uuid4().hex}"
        where = self.measured.place(name)
        own = isinstance(where, Path)
        return PairStore.create(where, self.schema, collection="pairs" if own else name)

    def ingest(self) -> dict[str, Any]:
        """Return the rates of paired rounds."""
        ours, rival = self.store(), self.store()
        spent: dict[str, list[float]] = {"ours": [], "raw": []}
        batch = self.options.batch
        for round_, low in enumerate(range(0, min(self.options.paired, self.count), batch)):
            rows = range(low, min(low + batch, self.count))
            part = slice(rows.start, rows.stop)
            vectors = document_vector(self.image[part], self.text[part])
            records = [
                StoredPair.of(pair, vector, "")
                for pair, vector in zip(pairs_of(rows), vectors, strict=True)
            ]
            raw = self.measured.raw(rival, records)
            runs = [
                ("ours", lambda rows=rows: write(ours, rows, self.image, self.text)),
                ("raw", raw),
            ]
            for name, run in runs if round_ % 2 else runs[::-1]:
                spent[name].append(timed(run)[1])
        for one in (ours, rival):
            drop(one)
        seconds = {name: np.array(values[1:]) for name, values in spent.items()}  # the first warms
        rate = {name: batch / float(np.mean(values)) for name, values in seconds.items()}
        return {
            "batch": batch,
            "rounds": len(seconds["raw"]),
            "pairs_per_second": rate["ours"],
            "raw_pairs_per_second": rate["raw"],
            "ratio": ratio(seconds["raw"], seconds["ours"], self.rng),
        }

    def fill(self, store: PairStore) -> dict[str, Any]:
        """Write all pairs; return the rate."""
        start = time.perf_counter()
        for low in range(0, self.count, self.options.batch):
            rows = range(low, min(low + self.options.batch, self.count))
            write(store, rows, self.image, self.text)
            spent = time.perf_counter() - start
            if spent > self.options.limit:
                raise SystemExit(
                    f"{rows.stop:,} of {self.count:,} pairs in {spent:.0f} s: beyond --limit"
                )
        return {"seconds": spent, "pairs_per_second": self.count / spent}

    def ask(self, store: PairStore, union: Union | None) -> list[dict[str, Any]]:
        """Return recall and time for each weighting."""
        matrix = document_vector(self.image, self.text)
        ward = WARDS // 2
        some = np.arange(ward, self.count, WARDS)
        condition = Comparison("ward", "==", ward)
        found = []
        for values in WEIGHTS:
            weights = FusionWeights(*values)
            recall: dict[str, list[float]] = {"fused": [], "filtered": [], "union": []}
            seconds: dict[str, list[float]] = {"fused": [], "filtered": [], "union": [], "raw": []}
            wide = defaults.NEGATIVE_EF_SEARCH if min(values) < 0 else defaults.EF_SEARCH
            search = self.measured.search(store, wide)
            for q_image, q_text in zip(*self.questions, strict=True):
                exact = matrix @ fused_query(q_image, q_text, weights, store.schema.blocks)
                question = (q_image, q_text, weights)
                hits, spent = timed(lambda q=question: store.query(*q, K))
                seconds["fused"].append(spent)
                recall["fused"].append(right_places(exact, [int(hit.pair_id) for hit in hits]))
                if search is not None:
                    vector = fused_query(*question, store.schema.blocks)
                    seconds["raw"].append(timed(lambda v=vector, ask=search: ask(v))[1])
                if union is not None:
                    keys, spent = timed(lambda q=question: union.query(*q, DEPTH))
                    seconds["union"].append(spent)
                    recall["union"].append(right_places(exact, [int(key) for key in keys]))
                hits, spent = timed(lambda q=question: store.query(*q, K, filters=condition))
                seconds["filtered"].append(spent)
                places = [int(hit.pair_id) // WARDS for hit in hits]
                recall["filtered"].append(right_places(exact[some], places))
            low, high = recall_interval(np.array(recall["fused"]), self.rng)
            row: dict[str, Any] = {"weights": values, "interval": [low, high]}
            for name in recall if union is not None else ("fused", "filtered"):
                row[f"recall_{name}"] = float(np.mean(recall[name]))
                row[f"ms_{name}"] = 1e3 * float(np.median(seconds[name]))
            if search is not None:
                row["ms_raw"] = 1e3 * float(np.median(seconds["raw"]))
            if search is not None and union is not None:
                pair = np.array(seconds["raw"]), np.array(seconds["union"])
                row["raw_of_union"] = ratio(*pair, self.rng)
            if union is not None:
                pair = np.array(seconds["fused"]), np.array(seconds["union"])
                row["of_union"] = ratio(*pair, self.rng)
            found.append(row)
            told(self.options, f"  {values}: " + ", ".join(
                f"{key} {value:.4f}" for key, value in row.items() if isinstance(value, float)
            ) + f", [{low:.4f}, {high:.4f}], of union {row.get('of_union', '-')}, "
            f"raw of union {row.get('raw_of_union', '-')}")  # fmt: skip
        return found

    def result(self) -> dict[str, Any]:
        """Measure everything."""
        out: dict[str, Any] = {"pairs": self.count, "dim": self.options.dim}
        out["ingest"] = self.ingest()
        told(self.options, f"  ingest {out['ingest']}")
        self.measured.begin()
        store = self.store()
        if self.options.index_last or self.options.halved:
            self.measured.without_index(store)
        out["fill"] = self.fill(store)
        start = time.perf_counter()
        self.measured.settle(store)
        out["settled_seconds"] = time.perf_counter() - start
        if self.options.halved:  # the index that is there is looked up on opening
            name = store._collection  # type: ignore[attr-defined]
            store.close()
            store = PairStore.open(self.measured.place(name), collection=name)
        disk, memory = self.measured.usage(store)
        out["disk_bytes_per_pair"] = None if disk is None else disk / self.count
        out["memory_bytes_per_pair"] = None if memory is None else memory / self.count
        told(self.options, f"  {json.dumps({k: v for k, v in out.items() if k != 'ingest'})}")
        union = None
        if not self.options.no_union:
            hnsw = _settings(self.options) or HNSWSettings()
            union = Union(
                self.measured.side(f"image_{self.count}", self.image, hnsw),
                self.measured.side(f"text_{self.count}", self.text, hnsw),
            )
        q_image, q_text = (half[0] for half in self.questions)
        for _ in range(3):  # load what is to be loaded
            store.query(q_image, q_text, FusionWeights(), K)
        out["questions"] = self.ask(store, union)
        drop(store)
        return out


def _settings(options: argparse.Namespace) -> HNSWSettings | None:
    local = options.store in ("milvus", "qdrant") and not options.url
    return None if local else HNSWSettings()


def told(options: argparse.Namespace, line: str) -> None:
    """Say how far it is."""
    if not options.json:
        print(line, flush=True)


def missed(out: dict[str, Any]) -> list[str]:
    """Return the bars that are missed."""
    worst = min(row["recall_fused"] for row in out["questions"])
    values = {"recall": worst, "ingest": float(out["ingest"]["ratio"].split()[0])}
    names = [name for name, value in values.items() if value < BARS[name]]
    shares = [float(row["of_union"].split()[0]) for row in out["questions"] if "of_union" in row]
    return [*names, "union"] if shares and max(shares) > BARS["union"] else names


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=STORES, required=True)
    parser.add_argument("--url", default="", help="of a server that runs, as --store of mrrag")
    parser.add_argument("--pairs", default="10000", help="one or several numbers")
    parser.add_argument("--dim", type=int, default=512, help="n of each tower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--paired", type=int, default=5000, help="pairs of the ingest in rounds")
    parser.add_argument("--limit", type=float, default=600, help="seconds of building")
    parser.add_argument("--index-last", action="store_true", help="PostgreSQL: fill, then index")
    parser.add_argument(
        "--halved", action="store_true", help="PostgreSQL: an index of halfvec, made last"
    )
    parser.add_argument("--no-union", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for count in map(int, options.pairs.split(",")):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            measured = STORES[options.store](Path(folder), options.url)
            if options.halved:
                measured.halved = True
            try:
                told(options, f"{options.store}, {count:,} pairs of 2 x {options.dim}")
                out = Run(options, measured, count).result()
            finally:
                measured.close()
        out["missed"] = missed(out)
        told(options, f"  bars missed: {', '.join(out['missed']) or 'none'}")
        results.append({"store": options.store, "seed": options.seed, **out})
    if options.json:
        print(json.dumps(results, indent=1))
    return int(any(out["missed"] for out in results))


if __name__ == "__main__":
    sys.exit(main())
