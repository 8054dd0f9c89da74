"""What the search for critical layers costs and finds, against the simple ways to do either.

    python tests/benchmarks/layer_search_cost.py --seed 0

1. Cost: seconds of the search by attention knockout, and of the naive procedure (one full forward
   pass per edge, window and question), both measured in full on the same questions, in turns.
2. Worth: accuracy at half noise with true relevance as score, unsteered, with the layers that the
   search found, and with every set of layers. The gain of the found layers should be at least 90%
   of the best gain. Questions of the search and of the accuracy are different ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import numpy as np
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.layers.blocking import Baseline, Example, Knockout
from mrrag_llamaindex.learning.layers.edges import Edge, block_plan, edges_of, window_around
from mrrag_llamaindex.learning.layers.search import search_layers
from mrrag_llamaindex.phantom.sets.trials import answered_right, draw_trials
from mrrag_llamaindex.steering.ifa import IFA


def naive(knockout: Knockout, asked: Baseline, edge: Edge, centre: int) -> float:
    """Probability of the answer with one edge blocked: one full forward pass, nothing shared."""
    layers = window_around(centre, knockout.window, knockout.depth)
    engine = knockout.engine
    plan = block_plan([edge], asked.spans, layers, engine.model.device)
    logits = engine.runner.logits([asked.prompt.input_ids], [asked.image], steering=plan)
    return float(logits[0, -1].softmax(-1)[asked.token])


def cost(engine: LlavaEngine, examples: list[Example]) -> dict[str, float]:
    """Both ways in full, question by question, the one that comes first alternating."""
    knockout = Knockout(engine)
    seconds = {"ours": 0.0, "naive": 0.0}
    largest = 0.0
    for number, example in enumerate(examples):
        engine.runner.prefixes.clear()
        found: dict[str, dict[str, list[float]]] = {}
        order = ("ours", "naive") if number % 2 else ("naive", "ours")
        for way in order:
            started = time.perf_counter()
            asked = knockout.ask(example)
            if way == "ours":
                found[way] = knockout.changes(asked)
            else:
                found[way] = {
                    edge.name: [
                        100 * (naive(knockout, asked, edge, at) / asked.probability - 1)
                        for at in range(knockout.depth)
                    ]
                    for edge in edges_of(asked.spans)
                }
            seconds[way] += time.perf_counter() - started
            engine.runner.prefixes.clear()
        for name, line in found["ours"].items():
            largest = max(largest, *np.abs(np.subtract(line, found["naive"][name])))
    return {**seconds, "ratio": seconds["ours"] / seconds["naive"], "largest_difference": largest}


def worth(engine: LlavaEngine, layers: tuple[int, ...], seed: int, count: int) -> dict[str, object]:
    trials = draw_trials(5000 + seed, count, documents=4, irrelevant=2)
    depth = engine.model.config.get_text_config(decoder=True).num_hidden_layers
    every = [
        chosen
        for size in range(1, depth + 1)
        for chosen in itertools.combinations(range(depth), size)
    ]
    right = {
        chosen: float(np.mean(answered_right(engine, trials, IFA(layers=chosen))))
        for chosen in every
    }
    plain = float(np.mean(answered_right(engine, trials)))
    best = max(every, key=lambda chosen: right[chosen])
    gain = right[best] - plain
    return {
        "unsteered": plain,
        "found": {"layers": list(layers), "accuracy": right[layers]},
        "best": {"layers": list(best), "accuracy": right[best]},
        "share_of_best_gain": (right[layers] - plain) / gain if gain > 0 else None,
        "sets": {",".join(map(str, chosen)): value for chosen, value in right.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=100, help="for the search")
    parser.add_argument("--timed", type=int, default=20, help="questions timed in both ways")
    parser.add_argument("--trials", type=int, default=400, help="for the accuracy")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=2)
    trials = draw_trials(7000 + options.seed, options.questions, documents=4, irrelevant=2)
    examples = trials
    found = search_layers(engine, examples, seed=options.seed, naive=0)
    result = {
        "layers": list(found.choice.layers),
        "halves": found.choice.in_words(),
        "cost": cost(engine, examples[: options.timed]),
        "worth": worth(engine, found.choice.layers, options.seed, options.trials),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
