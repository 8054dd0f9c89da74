"""What a run says beside its table: the steps of the method, what was tuned, what did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mrrag_llamaindex.evaluation.report.mcnemar import Comparison, compare
from mrrag_llamaindex.evaluation.report.table import ResultTable
from mrrag_llamaindex.evaluation.run.prediction import Prediction
from mrrag_llamaindex.evaluation.run.records import Evaluation

STEPS = (
    ("mcr", "naive-rag"),
    ("mcr+ifa", "mcr"),
    ("mcr+ifa", "hard-mask"),
    ("mcr+ifa", "naive-rag"),
    ("naive-rag", "no-retrieval"),
)
"""Pairs of methods whose difference is what the paper claims something about."""


def steps(
    runs: Mapping[str, Sequence[Prediction]], rule: str, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare the pairs of `STEPS` that ran."""
    return tuple(
        compare(runs[one], runs[other], rule, seed)
        for one, other in STEPS
        if one in runs and other in runs
    )


def step_line(item: Comparison) -> str:
    """Say one comparison in a line, in points of accuracy as the table's last column."""
    ends = "" if item.ci is None else f" [{100 * item.ci[0]:+.1f}, {100 * item.ci[1]:+.1f}]"
    return (
        f"{item.method} minus {item.baseline}: {100 * item.difference:+.1f} points{ends}, "
        f"McNemar p {item.p_mid:.2g} ({item.gained} gained, {item.lost} lost)"
    )


def as_dict(
    table: ResultTable,
    found: Evaluation,
    compared: Sequence[Comparison],
    problems: Mapping[str, int],
) -> dict[str, Any]:
    """Return everything as plain values for JSON."""
    return {
        **table.as_dict(),
        "not_run": [{"method": name, "reason": why} for name, why in found.not_run.items()],
        "steps": [
            {**asdict(item), "ci": None if item.ci is None else list(item.ci)} for item in compared
        ],
        "tuning": [item.as_dict() for item in found.tuned],
        "critical_layers": list(found.critical_layers),
        "notes": list(found.notes),
        "left_out": [vars(item) for item in found.left_out],
        "problems": dict(problems),
    }


def lines(found: Evaluation, compared: Sequence[Comparison]) -> list[str]:
    """Return what stands under the table."""
    said = [f"{name} was not run: {why}" for name, why in found.not_run.items()]
    said += [step_line(item) for item in compared]
    said += found.notes
    for item in found.tuned:
        said.append(f"{item.method.name}: chosen {item.note}")
    if found.left_out:
        said.append(
            f"{len(found.left_out)} times a question could not be asked and counts as wrong; the "
            f"first: {found.left_out[0].identifier!r}, {found.left_out[0].reason}"
        )
    return said


def grid_lines(found: Evaluation) -> list[str]:
    """Return every setting that was tried, with its accuracy on the validation questions."""
    return [
        f"{item.method.name}: {tried.accuracy:.3f} ({tried.confidence:.3f}) {tried.setting}"
        for item in found.tuned
        for tried in item.tries
    ]


def add_to_markdown(path: Path, said: Sequence[str]) -> None:
    """Append lines to a table in Markdown, as a list."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n" + "".join(f"- {line}\n" for line in said), encoding="utf-8")
