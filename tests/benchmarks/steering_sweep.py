"""Steering over numbers of documents and batch sizes: prefill, peak memory and decode speed.

Called by ``steering_prefill.py``; see there. Prefill: every variant once per round, in random
order, on one set of weights; medians and, beside them, the median of the paired ratios to stock
SDPA. Memory: ``torch.cuda.max_memory_allocated`` during one prefill minus what was allocated
before it; not measured on a CPU, where a process of its own is needed. Decode: greedy steps
after one prefill, with the plan passed along, all rows counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.benchmarks.steering_workload import (
    FLEX,
    VARIANTS,
    Size,
    Variant,
    build,
    make_inputs,
    make_plan,
    switch,
)
from tests.benchmarks.steering_workload import prefill as run_prefill


@dataclass
class Result:
    """Measurements of one variant at one size."""

    seconds: list[float] = field(default_factory=list)
    peak: float | None = None  # MiB
    tokens_per_second: float | None = None
    logits: torch.Tensor | None = None


class Clock:
    """Seconds between two points: CUDA events on a GPU, the wall clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu = torch.device(device).type == "cuda"

    def __enter__(self) -> Clock:
        if self.on_gpu:
            torch.cuda.synchronize()
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        else:
            self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_gpu:
            self.events[1].record()
            torch.cuda.synchronize()
            self.seconds = self.events[0].elapsed_time(self.events[1]) / 1000
        else:
            self.seconds = time.perf_counter() - self.start


def first_run(
    model: Any, inputs: dict[str, torch.Tensor], options: argparse.Namespace, size: Size, variant
) -> Result:
    """Warm up (and compile), then measure memory and decode speed."""
    result, clock = Result(), Clock(options.device)
    switch(model, variant)
    run_prefill(model, inputs, make_plan(options, size, variant.steered))
    plan = make_plan(options, size, variant.steered)
    if clock.on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    output = run_prefill(model, inputs, plan)
    if clock.on_gpu:
        torch.cuda.synchronize()
        result.peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    result.logits = output.logits[:, -1].float().cpu()
    steps = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
    }
    if options.decode:
        decode(model, output, steps, plan, 3)  # decode has compiled forms of its own
        with clock:
            decode(model, output, steps, plan, options.decode)
        result.tokens_per_second = size.batch * options.decode / clock.seconds
    return result


def decode(model: Any, output: Any, steps: dict[str, torch.Tensor], plan: Any, count: int) -> None:
    """Run greedy steps; `output` and `steps` move on."""
    with torch.inference_mode():
        for _ in range(count):
            token = output.logits[:, -1:].argmax(-1)
            mask = steps["attention_mask"]
            steps["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            output.logits = model(
                input_ids=token,
                attention_mask=steps["attention_mask"],
                past_key_values=output.past_key_values,
                steering=plan,
            ).logits


def measure(
    model: Any, options: argparse.Namespace, size: Size, variants: Sequence[Variant]
) -> dict[str, Result]:
    """Measure every variant at one size; one that does not fit the device is left out."""
    inputs, results, clock = make_inputs(model, options, size), {}, Clock(options.device)
    for variant in variants:
        try:
            results[variant.name] = first_run(model, inputs, options, size, variant)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(f"{variant.name}: out of memory at {size}")
    kept = [variant for variant in variants if variant.name in results]
    order = random.Random(options.seed)
    for _ in range(options.rounds):
        for variant in order.sample(kept, len(kept)):
            switch(model, variant)
            plan = make_plan(options, size, variant.steered)
            with clock:
                run_prefill(model, inputs, plan)
            results[variant.name].seconds.append(clock.seconds)
    return results


def sweep(options: argparse.Namespace) -> None:
    """Print one table per number of documents and batch size."""
    variants = (*VARIANTS, *FLEX) if options.flex else VARIANTS
    model = build(options)
    for documents in options.documents:
        for batch in options.batch:
            size = Size.of(options, documents, batch)
            results = measure(model, options, size, variants)
            print(f"\n{documents} documents, {size.tokens} tokens, batch {batch}")
            print(f"{'variant':<13}{'prefill ms':>11}{'to stock':>10}{'peak MiB':>10}{'tok/s':>9}")
            stock = results["stock SDPA"].seconds
            for name, result in results.items():
                pairs = zip(result.seconds, stock, strict=True)
                ratio = statistics.median(ours / theirs for ours, theirs in pairs)
                peak = "-" if result.peak is None else f"{result.peak:.0f}"
                speed = result.tokens_per_second
                print(
                    f"{name:<13}{1000 * statistics.median(result.seconds):>11.1f}{ratio:>10.3f}"
                    f"{peak:>10}{'-' if speed is None else f'{speed:.1f}':>9}"
                )
            report_errors(results)


def report_errors(results: dict[str, Result]) -> None:
    """Say how far the backends are from the definition, and how far steering moves them."""
    reference = results.get("eager, all")
    for name in ("ours, all", "flex, all"):
        if name in results and reference is not None:
            error = (results[name].logits - reference.logits).abs().max().item()
            effect = (results[name].logits - results["stock SDPA"].logits).abs().max().item()
            print(f"last logits: {name} to eager {error:.1e}, to stock {effect:.1e}")
