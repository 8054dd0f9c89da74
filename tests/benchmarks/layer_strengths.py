"""One strength for all steered layers, or one for each layer and a part of its heads.

    python tests/benchmarks/layer_strengths.py --seed 0

Synthetic questions of the noise study, MCR's own scores. Both ways get the same number of tries on
the same other patients, at half and at three quarters noise: one strength, in eight values and
three sets of layers; and `learning.layers.strengths`, whose heads are ranked by attention knockout
on a third set of patients. What each chose is then asked about patients that neither has seen.
Intervals are by bootstrap over patients.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.methods.tuning import Try, best_place, three_places
from mrrag_llamaindex.evaluation.noise.asking import Level, cells
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.evaluation.noise.result import Contestant
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.layers.blocking import Knockout
from mrrag_llamaindex.learning.layers.heads import rank_heads
from mrrag_llamaindex.learning.layers.strengths import Worth, search_strengths
from mrrag_llamaindex.phantom.sets import noise_trials
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.statistics.bootstrap import (
    difference_interval,
    resampled_means,
    share_interval,
)
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.towers.loading import load_towers

STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
TRIES = 3 * len(STRENGTHS)
LEVELS: tuple[Level, ...] = ((False, 2), (False, 3))
MEASURED: tuple[Level, ...] = (*LEVELS, (True, 2), (True, 3))
RANKED = 9000
"""Added to the seed: patients on whom heads are blocked."""


def right_and_sure(
    sweep: PrefixSweep,
    questions: Sequence[NoiseQuestion],
    policies: Sequence[IFA | None],
    levels: Sequence[Level],
) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and probability of the truth, both (policies, levels, questions)."""
    asked = [Contestant("off" if p is None else "ifa", "mcr", p) for p in policies]
    found = list(cells(sweep, questions, asked, levels, (0,)))
    return tuple(
        np.array([[getattr(level[n], name) for level in found] for n in range(len(policies))])
        for name in ("right", "confidence")
    )


def choose(sweep: PrefixSweep, questions: Sequence[NoiseQuestion], seed: int) -> dict[str, Any]:
    """Search both ways."""

    def worth(policies: Sequence[IFA]) -> list[Worth]:
        right, sure = right_and_sure(sweep, questions, policies, LEVELS)
        means = zip(right.mean(axis=(1, 2)), sure.mean(axis=(1, 2)), strict=True)
        return [(float(accuracy), float(p)) for accuracy, p in means]

    critical = sweep.engine.loaded.critical_layers
    grid = [
        IFA(strength=value, layers=layers)
        for layers in three_places(sweep.depth, critical)
        for value in STRENGTHS
    ]
    tries = [Try(p, *found) for p, found in zip(grid, worth(grid), strict=True)]
    knockout = Knockout(sweep.engine)
    asked = [
        (t, knockout.ask(t)) for t in draw_trials(RANKED + seed, 40, documents=4, irrelevant=2)
    ]
    words = {"yes": sweep.engine.yes_ids, "no": sweep.engine.no_ids}
    kept = [found for trial, found in asked if found.token in words[trial.answer]]
    others = [layer for layer in range(sweep.depth) if layer not in critical]
    ranked = rank_heads(knockout, kept, [*critical, *others])
    search = search_strengths(worth, critical, ranked, TRIES)
    return {
        "one strength": tries[best_place(tries)].setting,
        "by layer and head": search.policy,
        "validation": {
            "one strength": tries[best_place(tries)].accuracy,
            "by layer and head": max(item.worth for item in search.tries)[0],
        },
        "tries": {"one strength": len(tries), "by layer and head": len(search.tries)},
        "finished": search.finished,
        "heads": ranked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=600, help="questions measured on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, seed = time.perf_counter(), options.seed
    towers = load_towers(defaults.PHANTOM, device="cpu")
    weights = noise_trials.learn_weights(noise_trials.FUSION + seed, towers).weights
    loaded = load_model(defaults.PHANTOM, device="cpu", backend="eager")
    sweep = PrefixSweep(LlavaEngine(loaded, max_documents=4, max_new_tokens=2))
    validation, measured = (
        noise_trials.draw_noise_trials(
            first, count, documents=4, towers=towers, weights=weights
        ).questions
        for first, count in ((noise_trials.VALIDATION + seed, 300), (seed, options.count))
    )
    found = choose(sweep, validation, seed)
    names = ("plain", "paper", "one strength", "by layer and head")
    policies = (None, IFA(), found["one strength"], found["by layer and head"])
    right, _ = right_and_sure(sweep, measured, policies, MEASURED)
    owners = [item.patient_id for item in measured]
    rows = []
    for name, row in zip(names, right, strict=True):
        for (hostile, irrelevant), values, one in zip(MEASURED, row, right[2], strict=True):
            difference = values - one
            rows.append(
                {
                    "policy": name,
                    "contradicting": hostile,
                    "irrelevant": irrelevant,
                    "accuracy": float(values.mean()),
                    "ci": share_interval(resampled_means(values, owners, seed), owners),
                    "against_one_strength": float(difference.mean()),
                    "against_ci": difference_interval(
                        resampled_means(difference, owners, seed), owners
                    ),
                }
            )
    seconds = time.perf_counter() - started
    if options.json:
        print(json.dumps({"rows": rows, **found, "seconds": seconds}, default=repr))
        return
    for key, value in found.items():
        print(f"{key}: {value}")
    for row in rows:
        kind = "contradicting" if row["contradicting"] else "irrelevant"
        ends = "[{:.3f}, {:.3f}]".format(*row["ci"])
        against = "{:+.3f} [{:+.3f}, {:+.3f}]".format(
            row["against_one_strength"], *row["against_ci"]
        )
        where = f"{row['policy']:>18} {row['irrelevant']} {kind}"
        print(f"{where}: {row['accuracy']:.3f} {ends} {against}")
    print(f"{len(measured)} questions, seed {seed}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
