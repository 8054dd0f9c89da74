"""What it costs to measure where an answer's attention goes, in its own prefill.

    python tests/benchmarks/watch_cost.py --seed 0

LLaVA-Med's head geometry with random weights, as ``steering_prefill.py``: 1,500 tokens, 576 of them
the image's, the question's rows watched in the steered third of the layers. Each round runs the
same call with and without the watch, in random order; medians of the paired ratios, with 95%
bootstrap intervals, for steered and for plain attention. ``again`` is the noise floor.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.watch import AttentionWatch
from tests.benchmarks.steering_prefill import interval
from tests.benchmarks.steering_workload import (
    CLOSING,
    IMAGE_TOKENS,
    VARIANTS,
    Size,
    build,
    make_inputs,
    make_plan,
    prefill,
    switch,
)


def watched(options: argparse.Namespace, size: Size, plan: SteeringPlan | None) -> SteeringPlan:
    """Add what an answer's trace asks for: the question's rows, by six documents, image, itself."""
    start, stop = size.tokens - CLOSING - options.question, size.tokens - CLOSING
    edges = np.linspace(1 + IMAGE_TOKENS, start, size.documents + 1).astype(int).tolist()
    parts = [*itertools.pairwise(edges), (1, 1 + IMAGE_TOKENS), (start, stop)]
    layers = tuple(make_plan(options, size, "third").layers)
    watch = AttentionWatch.over([[(start, stop)]], [parts], layers, [size.tokens])
    return replace(plan or SteeringPlan.nothing([size.tokens]), watch=watch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--question", type=int, default=50)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.device, options.dtype, options.tokens = "cpu", "float32", 1500
    torch.set_num_threads(options.threads)
    size, model = Size.of(options), build(options)
    switch(model, VARIANTS[2])
    inputs = make_inputs(model, options, size)
    clocks: dict[str, list[float]] = {}
    order = random.Random(options.seed)
    for turn in range(options.rounds + 1):
        calls = [(kind, seen) for kind in ("none", "third") for seen in ("", "again", "seen")]
        for kind, seen in order.sample(calls, len(calls)):
            plan = make_plan(options, size, kind)
            plan = watched(options, size, plan) if seen == "seen" else plan
            started = time.process_time()
            prefill(model, inputs, plan)
            if turn:  # the first round warms up
                clocks.setdefault(f"{kind} {seen}".strip(), []).append(
                    time.process_time() - started
                )
    for kind in ("none", "third"):
        for seen in ("again", "seen"):
            ratio = np.array(clocks[f"{kind} {seen}"]) / np.array(clocks[kind])
            print(f"steered {kind:<6} {seen:<6} CPU time {interval(ratio, options.seed)}")


if __name__ == "__main__":
    main()
