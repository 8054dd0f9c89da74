"""Prefill time and peak memory of steering, with LLaVA-Med's head geometry.

    python tests/benchmarks/steering_prefill.py --seed 0
    python tests/benchmarks/steering_prefill.py --device cuda --dtype bfloat16 --layers 32 \\
        --intermediate 14336 --documents 1,6,15 --batch 1,8

A random `LlavaForConditionalGeneration`: hidden 4096, 32 query and 8 key heads of 128, few layers,
576 image tokens, fp32. Variants: stock SDPA; ours (the rows backend) with a third of the layers
steered and with all; the eager definition with all. The MLP is smaller than LLaVA-Med's
(``--intermediate 14336``), which makes attention, hence steering, weigh more: the hard case.

Time: all variants run once per round in random order on one set of weights, so each round gives
paired ratios to stock; medians over rounds with 95% bootstrap intervals. ``stock again`` is stock
against itself: the noise floor. Beside the wall clock stands the CPU time of all threads, which
other programs on the machine disturb less. Memory: every variant in a process of its own; the
highest resident size during the prefill (VmHWM, reset just before it) minus the size before it.

The second command prints one table per number of documents and batch size, with decode speed, see
``steering_sweep.py``; it runs on a CPU too. On CUDA it includes FlexAttention. On a CPU that is
added to the first table by ``--flex``, and to no list: the C++ that torch generates for it often
does not build for a second shape.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import transformers

from tests.benchmarks.steering_sweep import sweep
from tests.benchmarks.steering_workload import (
    FLEX,
    IMAGE_TOKENS,
    VARIANTS,
    Size,
    Variant,
    build,
    make_inputs,
    make_plan,
    prefill,
    switch,
)


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
    size = Size.of(options)
    model = build(options)
    inputs = make_inputs(model, options, size)
    switch(model, variant)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    prefill(model, inputs, make_plan(options, size, variant.steered))
    results.put(resident("VmHWM") - before)


def numbers(text: str) -> list[int]:
    """Read ``1,6,15``."""
    return [int(part) for part in text.split(",")]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="per prompt; default: 1500 with six documents")
    parser.add_argument("--question", type=int, default=50)
    parser.add_argument("--intermediate", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--documents", type=numbers, help="a list prints a table for each")
    parser.add_argument("--batch", type=numbers, help="a list prints a table for each")
    parser.add_argument("--decode", type=int, default=32, help="steps, in the tables of a list")
    parser.add_argument("--flex", action="store_true", help="measure FlexAttention on a CPU too")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    on_cpu = torch.device(options.device).type == "cpu"
    if on_cpu and options.documents is None and options.batch is None:
        one_size(options)
        return
    if options.flex and on_cpu:
        raise SystemExit("--flex on a CPU measures one size: leave --documents and --batch out")
    options.flex = not on_cpu
    options.documents, options.batch = options.documents or [6], options.batch or [1]
    chip = platform.machine() if on_cpu else torch.cuda.get_device_name(options.device)
    print(
        f"{options.layers} layers, 32/8 heads, d 128, hidden 4096, intermediate "
        f"{options.intermediate}, {options.dtype}, |Q| {options.question}, {options.rounds} "
        f"rounds, seed {options.seed}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {chip}"
    )
    sweep(options)


def one_size(options: argparse.Namespace) -> None:
    """Print the table of one workload on a CPU, with intervals and memory."""
    variants = (*VARIANTS, *FLEX) if options.flex else VARIANTS
    size = Size.of(options)
    peaks = {}
    context = multiprocessing.get_context("spawn")
    for variant in variants:
        results: Any = context.SimpleQueue()
        process = context.Process(target=measure_memory, args=(options, variant, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{variant.name}: the memory run failed")
        peaks[variant.name] = results.get()

    model = build(options)
    inputs = make_inputs(model, options, size)
    outputs = {}
    for variant in variants:  # warm up, and keep the logits
        switch(model, variant)
        outputs[variant.name] = prefill(
            model, inputs, make_plan(options, size, variant.steered)
        ).logits
    wall: dict[str, list[float]] = {variant.name: [] for variant in variants}
    cpu: dict[str, list[float]] = {variant.name: [] for variant in variants}
    order = random.Random(options.seed)
    for _ in range(options.rounds):
        for variant in order.sample(variants, len(variants)):
            switch(model, variant)
            plan = make_plan(options, size, variant.steered)
            start = time.perf_counter(), time.process_time()
            prefill(model, inputs, plan)
            wall[variant.name].append(time.perf_counter() - start[0])
            cpu[variant.name].append(time.process_time() - start[1])

    print(
        f"T {size.tokens} ({IMAGE_TOKENS} image), |Q| {options.question}, {options.layers} "
        f"layers, 32/8 heads, d 128, hidden 4096, intermediate {options.intermediate}, "
        f"{options.dtype} CPU, {options.threads} threads, {options.rounds} rounds, seed "
        f"{options.seed}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}"
    )
    print(f"{'variant':<13}{'wall s':>8}  {'to stock [95%]':<22}{'CPU to stock [95%]':<22}peak MiB")
    for variant in variants:
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
