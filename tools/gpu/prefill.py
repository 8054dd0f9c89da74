"""The table of prefill, memory and decoding, and its verdicts."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from mrrag_llamaindex.steering.attention.registry import BACKENDS
from tests.benchmarks.steering_sweep import Result, measure
from tests.benchmarks.steering_workload import CLOSING, Size, Variant, make_inputs, prefill, switch
from tools.gpu.report import Report

BAR = 1.03
"""Prefill of rows or flex over stock that is asked for."""

ROWS = Variant("rows", BACKENDS["rows"].registered, "third")

_STOCK = Variant("stock SDPA", "sdpa", "none")
_VARIANTS = (
    _STOCK,
    Variant("stock again", "sdpa", "none"),
    ROWS,
    Variant("flex", BACKENDS["flex"].registered, "third"),
    Variant("eager", BACKENDS["eager"].registered, "third"),
)
_TIMES_ROUNDING = 3
_TOLERANCE = 1e-4
_HEAD = (
    "\n| documents (tokens) | batch | attention | prefill, ms | to stock | peak, MiB | tokens/s "
    "| off by | rounding |\n|---|---|---|---|---|---|---|---|---|"
)


def run_prefill(model: Any, options: argparse.Namespace, report: Report) -> None:
    """Measure every size that there is time for, see ``tools/gpu_check.py``."""
    variants = _VARIANTS
    if torch.device(options.device).type == "cpu":
        variants = tuple(variant for variant in variants if variant.name != "flex")
        report.say("\nflex is left out: what torch compiles for it on a CPU is often wrong.")
    report.say(_HEAD)
    best = []
    image = model.config.image_seq_length
    for documents in options.documents:
        tokens = 1 + image + options.report * documents + options.question + CLOSING
        for batch in options.batch:
            if not report.has_time(f"prefill with {documents} documents, batch {batch}"):
                continue
            size = Size(documents, batch, tokens, image)
            results = measure(model, options, size, variants)
            if _STOCK.name not in results:
                report.failed.append(f"stock SDPA at {documents} documents, batch {batch}")
                continue
            rounding = _rounding(model, options, size, results)
            for name in results:
                report.say(_row(name, results, size, rounding, report))
            best += [min(_to_stock(results, name) for name in ("rows", "flex") if name in results)]
    if best:
        met = "met" if max(best) <= BAR else "not met"
        report.say(f"\nThe better of rows and flex takes {max(best):.3f} at most: {BAR} is {met}.")


def _rounding(
    model: Any, options: argparse.Namespace, size: Size, results: Mapping[str, Result]
) -> float:
    """Measure what two plain forms of attention differ by; NaN if one does not fit."""
    switch(model, Variant("stock eager", "eager", "none"))
    try:
        output = prefill(model, make_inputs(model, options, size), None)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("nan")
    return _distance(output.logits[:, -1].float().cpu(), results[_STOCK.name].logits)


def _distance(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


def _to_stock(results: Mapping[str, Result], name: str) -> float:
    pairs = zip(results[name].seconds, results[_STOCK.name].seconds, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def _row(
    name: str, results: Mapping[str, Result], size: Size, rounding: float, report: Report
) -> str:
    """Write one line of the table, and note a backend that is off."""
    result, off = results[name], "-"
    if name in ("rows", "flex") and "eager" in results:
        gap = _distance(result.logits, results["eager"].logits)
        off = f"{gap:.2g}"
        if not gap <= max(_TOLERANCE, _TIMES_ROUNDING * rounding):
            off = f"**{off}**"
            where = f"{size.documents} documents, batch {size.batch}"
            report.failed.append(f"{name} to eager at {where}")
    peak = "-" if result.peak is None else f"{result.peak:,.0f}"
    speed = "-" if result.tokens_per_second is None else f"{result.tokens_per_second:.1f}"
    return (
        f"| {size.documents} ({size.tokens:,}) | {size.batch} | {name} "
        f"| {1000 * statistics.median(result.seconds):.1f} | {_to_stock(results, name):.3f} "
        f"| {peak} | {speed} | {off} | {rounding:.2g} |"
    )
