"""What mining training data costs against the naive way, as ratios inside one run.

    python tests/benchmarks/mining_cost.py --seed 0

1. The phantom, 200 questions with 16 candidates: seconds of the whole run (retrieval, towers,
   generator, a file synchronised after each question), and seconds spent asking the generator.
2. A random LLaVA of about 100M parameters with 576 image tokens, the same with 2 questions.

The denominator is the whole run of the naive way on the same questions: one full prefill of image,
document and question for each pair (``naive``). A second one is what one would write without this
module, ``engine.generate`` with an engine that keeps no prefix (``generate``). Both retrieve, embed
and write their records as mining does, so only the asking differs. All ways take turns within each
part of the questions, in random order; the ratio is of sums over all parts, with a 95% bootstrap
interval over parts. Labels of all ways are compared. The candidates are those of the fused score
(``pool="fused"``), as in the paper: one search for each question.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel, load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
from mrrag_llamaindex.learning.mining.mining import mine
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.mcr.vote import polarity
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.sets.questions import questions_of, store_of
from mrrag_llamaindex.towers.loading import load_towers
from tests.benchmarks.throughput import write_llava

DENOMINATORS = {
    "naive": "one full prefill of image, document and question for each pair",
    "generate": "engine.generate for each pair, no prefix kept",
}


class Generated:
    """Confidence through ``engine.generate``, one document at a time."""

    def __init__(self, loaded: LoadedModel, identity: str) -> None:
        family = replace(loaded.family, shares_prefix=False)
        self.engine = LlavaEngine(replace(loaded, family=family), max_new_tokens=2)
        self.identity = identity

    def rate(
        self,
        image: Image.Image | None,
        question: str,
        answer: str,
        documents: Sequence[str | None],
    ) -> list[float | None]:
        values: list[float | None] = []
        for document in documents:
            offered = [PromptDocument("d", document)] if document else []
            request = PromptRequest(question, offered)
            (reply,) = self.engine.generate([request], [image], max_new_tokens=1)
            gold = reply.p_yes if polarity(answer) == "yes" else reply.p_no
            values.append(gold / (reply.p_yes + reply.p_no))
        return values


class Timed:
    """A confidence that counts its seconds."""

    def __init__(self, inner: AnswerConfidence) -> None:
        self.inner = inner
        self.identity = inner.identity
        self.seconds = 0.0

    def rate(self, *arguments: object) -> list[float | None]:
        start = time.perf_counter()
        values = self.inner.rate(*arguments)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - start
        return values


def interval(above: list[float], below: list[float], seed: int) -> str:
    """Ratio of sums with a 95% bootstrap interval over parts."""
    top, bottom = np.array(above), np.array(below)
    draws = np.random.default_rng(seed).integers(len(top), size=(4000, len(top)))
    low, high = np.quantile(top[draws].sum(1) / bottom[draws].sum(1), [0.025, 0.975])
    return f"{top.sum() / bottom.sum():.3f} [{low:.3f}, {high:.3f}]"


def measure(
    name: str, loaded: LoadedModel, questions: int, parts: int, options: argparse.Namespace
) -> None:
    towers = load_towers(defaults.PHANTOM)
    corpus = make_corpus(options.seed, queries=questions)
    store = store_of(corpus, towers)
    gold = questions_of(corpus)
    engine = LlavaEngine(loaded, max_new_tokens=2)
    shared = AnswerConfidence(engine)
    ways = {
        "mined": Timed(shared),
        "naive": Timed(AnswerConfidence(engine, batch_size=1, share=False)),
        "generate": Timed(Generated(loaded, shared.identity)),
    }
    settings = MiningSettings(candidates=options.candidates, pool="fused")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    asking: dict[str, list[float]] = {way: [] for way in ways}
    labels: dict[str, list[object]] = {way: [] for way in ways}
    order = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        for way in ways.values():  # warm up
            mine(gold[:1], store, towers, way, Path(folder) / "warm", settings)
            (Path(folder) / "warm").unlink()
        for part in range(parts):
            share = gold[part::parts]
            for way in order.sample(list(ways), len(ways)):
                ways[way].seconds = 0.0
                engine.runner.prefixes.clear()
                out = Path(folder) / f"{way}-{part}.jsonl"
                seconds[way].append(mine(share, store, towers, ways[way], out, settings).seconds)
                asking[way].append(ways[way].seconds)
                labels[way] += [(r.positive, r.negatives) for r in read_training_set(out).records]
    for way in ways:
        total = sum(seconds[way])
        print(
            f"{name}, {way}: {total:.1f} s ({1000 * total / questions:.0f} ms a question), "
            f"of these {sum(asking[way]):.1f} s asking"
        )
    for way in ("naive", "generate"):
        same = np.mean([a == b for a, b in zip(labels["mined"], labels[way], strict=True)])
        print(
            f"{name}, mined / {way} ({DENOMINATORS[way]}): "
            f"whole run {interval(seconds['mined'], seconds[way], options.seed)}"
            f", asking {interval(asking['mined'], asking[way], options.seed)}"
            f", equal labels {same:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large-questions", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    phantom = load_model(defaults.PHANTOM, device="cpu")
    measure("phantom", phantom, options.questions, options.parts, options)
    if options.large_questions:
        with tempfile.TemporaryDirectory() as folder:
            write_llava(Path(folder), options.seed)
            large = load_model(folder, device="cpu")
            count = options.large_questions
            measure("random LLaVA, 576 image tokens", large, count, count, options)


if __name__ == "__main__":
    main()
