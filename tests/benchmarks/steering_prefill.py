"""Prefill time and peak memory of steering, with LLaVA-Med's head geometry.

    python tests/benchmarks/steering_prefill.py --seed 0

A random `LlavaForConditionalGeneration`: hidden 4096, 32 query and 8 key heads of 128, few layers,
576 image tokens, fp32. Variants: stock SDPA; ours (the rows backend) with a third of the layers
steered and with all; the eager definition with all. The MLP is smaller than LLaVA-Med's
(``--intermediate 14336``), which makes attention, hence steering, weigh more: the hard case.

Time: all variants run once per round in random order on one set of weights, so each round gives
paired ratios to stock; medians over rounds with 95% bootstrap intervals. ``stock again`` is stock
against itself: the noise floor. Beside the wall clock stands the CPU time of all threads, which
other programs on the machine disturb less. Memory: every variant in a process of its own; the
highest resident size during the prefill (VmHWM, reset just before it) minus the size before it.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from mrrag_llamaindex.steering.attention import BACKENDS, register
from mrrag_llamaindex.steering.carrier import steerable_class
from mrrag_llamaindex.steering.plan import IFA, PromptSpans, SteeringPlan

IMAGE_TOKENS, IMAGE_ID, CLOSING = 576, 999, 4


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    implementation: str
    steered: str  # "none" | "third" | "all"


VARIANTS = (
    Variant("stock SDPA", "sdpa", "none"),
    Variant("stock again", "sdpa", "none"),
    Variant("ours, third", BACKENDS["rows"], "third"),
    Variant("ours, all", BACKENDS["rows"], "all"),
    Variant("eager, all", BACKENDS["eager"], "all"),
)


def build(options: argparse.Namespace) -> tuple[Any, dict[str, torch.Tensor]]:
    """Make the model and one prompt: BOS, image, documents, question, closing tokens."""
    torch.manual_seed(options.seed)
    register()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
        ),
        text_config=MistralConfig(
            vocab_size=1000,
            hidden_size=4096,
            intermediate_size=options.intermediate,
            num_hidden_layers=options.layers,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            sliding_window=None,
        ),
        image_token_id=IMAGE_ID,
        image_seq_length=IMAGE_TOKENS,
    )
    model = steerable_class(LlavaForConditionalGeneration)(config).eval()
    ids = torch.randint(3, 900, (1, options.tokens))
    ids[0, 1 : 1 + IMAGE_TOKENS] = IMAGE_ID
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, 336, 336),
    }
    return model, inputs


def make_plan(options: argparse.Namespace, steered: str) -> SteeringPlan | None:
    """Six documents between image and question, lambda from 1 to 0."""
    if steered == "none":
        return None
    start, stop = options.tokens - CLOSING - options.question, options.tokens - CLOSING
    edges = np.linspace(1 + IMAGE_TOKENS, start, 7).astype(int).tolist()
    spans = PromptSpans(tuple(itertools.pairwise(edges)), (start, stop), options.tokens)
    count = options.layers if steered == "all" else max(1, options.layers // 3)
    first = (options.layers - count) // 2
    lambdas = np.linspace(1, 0, 6).tolist()
    return SteeringPlan.build(
        [spans], [lambdas], IFA(), range(first, first + count), options.tokens
    )


def prefill(model: Any, inputs: dict[str, torch.Tensor], plan: SteeringPlan | None) -> torch.Tensor:
    """Run the prompt once with a cache, as generation does."""
    with torch.inference_mode():
        logits: torch.Tensor = model(
            **inputs, steering=plan, use_cache=True, logits_to_keep=1
        ).logits
    if plan is not None:
        plan.require_applied()
    return logits


def switch(model: Any, variant: Variant) -> None:
    model.set_attn_implementation({"text_config": variant.implementation, "vision_config": "sdpa"})


def interval(values: np.ndarray, seed: int) -> str:
    """Median with a 95% bootstrap interval."""
    rng = np.random.default_rng(seed)
    draws = np.median(rng.choice(values, size=(4000, len(values))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{np.median(values):.3f} [{low:.3f}, {high:.3f}]"


def resident(field: str) -> float:
    """Read VmRSS or VmHWM of this process, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status: memory is measured on Linux only")


def measure_memory(options: argparse.Namespace, variant: Variant, results: Any) -> None:
    """Run in a fresh process: peak of one prefill above the size before it, in MiB."""
    torch.set_num_threads(options.threads)
    model, inputs = build(options)
    switch(model, variant)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    prefill(model, inputs, make_plan(options, variant.steered))
    results.put(resident("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--question", type=int, default=50)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()

    peaks = {}
    context = multiprocessing.get_context("spawn")
    for variant in VARIANTS:
        results: Any = context.SimpleQueue()
        process = context.Process(target=measure_memory, args=(options, variant, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{variant.name}: the memory run failed")
        peaks[variant.name] = results.get()

    model, inputs = build(options)
    outputs = {}
    for variant in VARIANTS:  # warm up, and keep the logits
        switch(model, variant)
        outputs[variant.name] = prefill(model, inputs, make_plan(options, variant.steered))
    wall: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    cpu: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    order = random.Random(options.seed)
    for _ in range(options.rounds):
        for variant in order.sample(VARIANTS, len(VARIANTS)):
            switch(model, variant)
            plan = make_plan(options, variant.steered)
            start = time.perf_counter(), time.process_time()
            prefill(model, inputs, plan)
            wall[variant.name].append(time.perf_counter() - start[0])
            cpu[variant.name].append(time.process_time() - start[1])

    print(
        f"T {options.tokens} ({IMAGE_TOKENS} image), |Q| {options.question}, {options.layers} "
        f"layers, 32/8 heads, d 128, hidden 4096, intermediate {options.intermediate}, fp32 CPU, "
        f"{options.threads} threads, {options.rounds} rounds, seed {options.seed}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}"
    )
    print(f"{'variant':<13}{'wall s':>8}  {'to stock [95%]':<22}{'CPU to stock [95%]':<22}peak MiB")
    for variant in VARIANTS:
        name = variant.name
        ratios = [
            interval(np.array(clock[name]) / np.array(clock["stock SDPA"]), options.seed)
            for clock in (wall, cpu)
        ]
        print(
            f"{name:<13}{np.median(wall[name]):>8.2f}  {ratios[0]:<22}{ratios[1]:<22}"
            f"{peaks[name]:>8.0f}"
        )
    error = (outputs["ours, all"] - outputs["eager, all"]).abs().max().item()
    effect = (outputs["ours, all"] - outputs["stock SDPA"]).abs().max().item()
    print(f"last logits: ours to eager {error:.1e}, steered to stock {effect:.1e}")


if __name__ == "__main__":
    main()
