"""Steering and batches on a GPU: checked, and measured in one table.

    python tools/gpu_check.py                                # a GPU, under ten minutes
    python tools/gpu_check.py --device cpu --size tiny       # that it runs, in half a minute

Needs torch >= 2.11, transformers >= 5.16, numpy and pillow, and the repository; nothing is
downloaded. The model has LLaVA-Med's shape (Mistral 7B, CLIP ViT-L/14 at 336 pixels) and random
weights in bfloat16 (float32 on a CPU), made on the device.

1. What must hold of steering on any device (``tools/gpu/steering.py``), in float32 with a small
   model. The run ends with exit status 1 if something does not.
2. Prefill with the middle third of the layers steered, for every number of documents and batch
   size: all variants once per round in random order on the same weights, the median of the paired
   ratios to stock SDPA ("stock again" is the noise); peak memory of one prefill above weights and
   inputs; tokens per second of greedy decoding, all rows counted; the largest difference of the
   last logits to the eager definition. Rounding is what stock SDPA and stock eager differ by; a
   difference of more than three times as much, and than 1e-4, fails.
3. Questions per second of 1, 8 and 32 callers, each asking about another image and other reports.

What there is no time for is left out, and named.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers

from mrrag_llamaindex.generation.engine import LlavaEngine
from tests.benchmarks.steering_prefill import numbers
from tests.benchmarks.steering_workload import switch
from tools.gpu.load import measure_load
from tools.gpu.model import SHAPES, random_llava
from tools.gpu.prefill import ROWS, run_prefill
from tools.gpu.report import Report
from tools.gpu.steering import CHECKS
from tools.gpu.workload import REPORT_TOKENS


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="llava-med", choices=SHAPES)
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        help="default: bfloat16, on a CPU float32",
    )
    parser.add_argument("--documents", type=numbers, default=[1, 6, 15])
    parser.add_argument("--batch", type=numbers, default=[1, 8])
    parser.add_argument("--callers", type=numbers, default=[1, 8, 32])
    parser.add_argument("--report", type=int, help="tokens of one; default 145, tiny: 12")
    parser.add_argument("--question", type=int, default=50, help="tokens, in part 2")
    parser.add_argument("--rounds", type=int, default=5, help="prefills of each variant")
    parser.add_argument("--decode", type=int, default=32, help="steps that are timed")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer under load")
    parser.add_argument("--rows", type=int, default=8, help="questions answered at once under load")
    parser.add_argument("--minutes", type=float, default=9, help="begin nothing new after these")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.dtype = options.dtype or ("bfloat16" if on_cuda(options) else "float32")
    if options.report is None:
        options.report = 12 if options.size == "tiny" else REPORT_TOKENS
    return options


def on_cuda(options: argparse.Namespace) -> bool:
    """Return whether the device is a GPU."""
    return torch.device(options.device).type == "cuda"


def run_checks(options: argparse.Namespace, report: Report) -> None:
    """Run every check, whatever becomes of the others."""
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        begun = time.monotonic()
        try:
            check(options.device)
        except Exception as error:
            report.failed.append(name)
            report.say(f"- {name}: **failed**, {type(error).__name__}: {error}")
        else:
            report.say(f"- {name}: holds ({time.monotonic() - begun:.0f} s)")


def run_load(engine: LlavaEngine, options: argparse.Namespace, report: Report) -> None:
    """Measure every number of callers that there is time for."""
    if report.has_time("whole batches before the callers"):  # warm up
        measure_load(engine, options.rows, 2 * options.rows, options.report)
    report.say("\n| callers | questions/s | to one caller | median latency, s |\n|---|---|---|---|")
    alone = None
    for callers in options.callers:
        if not report.has_time(f"{callers} callers"):
            continue
        load = measure_load(engine, callers, max(8, 3 * callers), options.report)
        alone = alone or load.rate
        gain = load.rate / alone
        report.say(f"| {callers} | {load.rate:.2f} | {gain:.2f} | {load.latency:.3f} |")


def main() -> int:
    """Run the three parts; return 1 if something does not hold."""
    options = read_options()
    transformers.logging.set_verbosity_error()
    report = Report(options.minutes)
    chip = torch.cuda.get_device_name(options.device) if on_cuda(options) else "CPU"
    report.say(
        f"{chip}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{options.size} in {options.dtype}, {options.rounds} rounds, seed {options.seed}\n"
    )
    run_checks(options, report)
    loaded = random_llava(options.size, options.device, options.dtype, seed=options.seed)
    options.layers = loaded.model.config.text_config.num_hidden_layers
    run_prefill(loaded.model, options, report)
    switch(loaded.model, ROWS)
    engine = LlavaEngine(loaded, max_new_tokens=options.answer, batch_size=options.rows)
    run_load(engine, options, report)
    for what in report.left_out:
        report.say(f"left out for want of time: {what}")
    for what in report.failed:
        report.say(f"failed: {what}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
