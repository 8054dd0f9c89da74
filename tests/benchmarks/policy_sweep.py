"""What a sweep over policies costs: one shared prefix against one whole call per policy.

Same model, same questions, same policies, in one process and in turn; medians, and the median of
the paired ratios. ``sweep`` reads image and documents once per question, ``calls`` runs
``generate`` once per policy over all questions in batches. OPERA's search is timed against
greedy decoding of the same questions.

    python tests/benchmarks/policy_sweep.py --questions 8 --documents 6 --rounds 3
    python tests/benchmarks/policy_sweep.py --model FOLDER --device cuda

Answers are those of the phantom's trials, whatever the model; only time is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.uniform import Uniform

POLICIES = (
    None,
    *(IFA(strength=strength) for strength in (0.5, 1.0, 2.0)),
    Uniform(),
    HardMask(),
    PASTA(),
    PAI(guidance=1.0),
)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call, the device's work included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=defaults.PHANTOM)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--new-tokens", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    trials = draw_trials(
        options.seed,
        options.questions,
        documents=options.documents,
        irrelevant=options.documents // 2,
    )
    requests, images = [t.request for t in trials], [t.image for t in trials]
    loaded = load_model(options.model, device=options.device)
    engine = LlavaEngine(loaded, max_new_tokens=options.new_tokens)

    def calls() -> None:
        for policy in POLICIES:
            engine.generate(requests, images, policy=policy)

    def one_by_one() -> None:
        """Without any prefix kept: every policy reads every prompt anew."""
        for request, image in zip(requests, images, strict=True):
            for policy in POLICIES:
                engine.runner.prefixes.clear()
                engine.generate([request], [image], policy=policy)

    variants: dict[str, Callable[[], Any]] = {
        "sweep": lambda: engine.sweep(requests, images, POLICIES),
        "calls in batches": calls,
        "calls one by one, nothing kept": one_by_one,
        "greedy": lambda: [
            engine.generate([r], [i]) for r, i in zip(requests, images, strict=True)
        ],
        "OPERA": lambda: engine.generate(requests, images, decoding=OPERA()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(options.rounds + 1):
        for name, work in variants.items():
            engine.runner.prefixes.clear()
            taken = timed(work)
            if turn:  # the first turn warms up
                seconds[name].append(taken)

    print(f"{options.questions} questions, {len(POLICIES)} policies, median of {options.rounds}")
    for name, against in (
        ("sweep", "calls in batches"),
        ("sweep", "calls one by one, nothing kept"),
        ("OPERA", "greedy"),
    ):
        ratio = statistics.median(
            a / b for a, b in zip(seconds[name], seconds[against], strict=True)
        )
        one, two = (statistics.median(seconds[key]) for key in (name, against))
        print(f"{name} {one:.2f} s, {against} {two:.2f} s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
