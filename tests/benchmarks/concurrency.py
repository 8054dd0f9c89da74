"""Questions per second of 1, 8 and 32 clients: engine, stock query engine, HTTP.

    python tests/benchmarks/concurrency.py --seed 0 --json
    python tests/benchmarks/concurrency.py --seed 0 --llava

Every question is about another synthetic patient, so nothing is found in the prefix cache. Every
round runs all levels with all numbers of clients in random order; questions per second are medians
over rounds, and what many clients get over one is the median of the ratios within rounds, with a
95% bootstrap interval. HTTP is a process of its own, ``mrrag serve``, on the same cores as its
clients.

The latency of a lone request: `LlavaEngine.generate`, which goes through the queue, in turn with
the same work done past it.

``--llava`` measures a random LLaVA of about 100M parameters, with LLaVA-Med's 576 image tokens, in
place of the phantom.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import transformers

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from tests.benchmarks.concurrent_clients import Engine, Http, Level, QueryEngine, Question
from tests.benchmarks.throughput import interval, write_llava
from tests.serving.server_process import serving

CLIENTS = (1, 8, 32)
ANSWER = 4  # tokens


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=64, help="of each number of clients")
    parser.add_argument("--lone", type=int, default=9, help="blocks of ten requests alone")
    parser.add_argument("--llava", action="store_true", help="a random LLaVA, not the phantom")
    parser.add_argument("--levels", nargs="+", default=["engine", "query_engine", "http"])
    parser.add_argument("--batch-size", type=int, help="default: the package's")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def make_store(folder: Path, seed: int, count: int) -> tuple[MRRAGIndex, list[Question]]:
    """Write a store of synthetic studies, and questions about other patients."""
    corpus = make_corpus(seed, patients=200, queries=count, profiles=100)
    index = MRRAGIndex.from_pairs(
        read_pairs(write_corpus(folder, corpus.studies)), "phantom", folder / "store"
    )
    questions = []
    for number, query in enumerate(corpus.queries):
        path = folder / f"query-{number}.png"
        query.study.image.save(path)
        questions.append(Question.retrieved(index, query.question, path))
    return index, questions


def measure(
    levels: dict[str, Level], questions: list[Question], options: argparse.Namespace
) -> dict[str, dict[int, list[float]]]:
    """Questions per second of every level and number of clients, round by round."""
    order = random.Random(options.seed)
    cells = [(name, clients) for name in levels for clients in CLIENTS]
    rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in CLIENTS} for name in levels}
    for name, clients in cells:  # warm up
        levels[name].seconds(clients, questions[:clients])
    for _ in range(options.rounds):
        for name, clients in order.sample(cells, len(cells)):
            asked = order.sample(questions, len(questions))
            rates[name][clients].append(len(asked) / levels[name].seconds(clients, asked))
    return rates


def lone(engine: Engine, questions: list[Question], blocks: int, seed: int) -> dict[str, Any]:
    """Seconds of single requests through the queue and past it.

    In blocks, of which the first requests do not count: the threads in which torch computes for
    one way go on spinning for a while, in the way of the other's.
    """
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {"queue": [], "direct": []}
    ways = {"queue": engine.ask, "direct": engine.direct}
    ratios = []
    for _ in range(blocks):
        medians = {}
        for name in order.sample(list(ways), 2):
            taken = []
            for question in order.sample(questions, min(10, len(questions))):
                begun = time.perf_counter()
                ways[name](question)
                taken.append(time.perf_counter() - begun)
            seconds[name] += taken[2:]
            medians[name] = statistics.median(taken[2:])
        ratios.append(medians["queue"] / medians["direct"])
    return {
        **{name: statistics.median(taken) for name, taken in seconds.items()},
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    options = read_options()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), "phantom"
        index, questions = make_store(folder, options.seed, options.questions)
        if options.llava:
            model = str(folder / "llava")
            write_llava(Path(model), options.seed)
        limits = {} if options.batch_size is None else {"batch_size": options.batch_size}
        llm = MRRAGLLaVA(model=model, device="cpu", max_new_tokens=ANSWER, **limits)
        engine = Engine(llm)
        command = ["--store", str(folder / "store"), "--model", model, "--device", "cpu"]
        command += ["--max-new-tokens", str(ANSWER)]
        command += [] if options.batch_size is None else ["--batch-size", str(options.batch_size)]
        levels: dict[str, Level] = {"engine": engine, "query_engine": QueryEngine(index, llm)}
        if "http" in options.levels:
            with serving(folder, *command) as served:
                levels["http"] = Http(served.port)
                levels = {name: levels[name] for name in options.levels}
                rates = measure(levels, questions, options)
        else:
            rates = measure({name: levels[name] for name in options.levels}, questions, options)
        alone = lone(engine, questions, options.lone, options.seed)
    say(options, llm, rates, alone)


def say(options: argparse.Namespace, llm: MRRAGLLaVA, rates: Any, alone: dict[str, Any]) -> None:
    """Print the table, or the same as JSON."""
    medians = {
        name: {str(n): statistics.median(values) for n, values in cells.items()}
        for name, cells in rates.items()
    }
    if options.json:
        print(json.dumps({**medians, "lone_seconds": alone}, indent=2))
        return
    parameters = sum(one.numel() for one in llm.engine.model.parameters())
    print(
        f"{'random LLaVA' if options.llava else 'phantom'}, {parameters / 1e6:.1f}M parameters, "
        f"batches of {llm.batch_size}, {options.questions} questions, {options.rounds} rounds, "
        f"seed {options.seed}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, cells in rates.items():
        for n, values in cells.items():
            gains = [many / one for many, one in zip(values, cells[CLIENTS[0]], strict=True)]
            print(
                f"  {name:<14}{n:>3} clients {medians[name][str(n)]:>8.2f} questions/s   "
                f"{interval(gains, options.seed)} times one client"
            )
    print(
        f"  a lone request: {1000 * alone['queue']:.1f} ms through the queue, "
        f"{1000 * alone['direct']:.1f} ms past it, ratio {alone['ratio']:.3f}"
    )


if __name__ == "__main__":
    main()
