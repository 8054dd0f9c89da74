"""What stands under a run's table: the steps of the method, what was tuned, what did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.tuning import Tuned
from mrrag_llamaindex.evaluation.run.records import Evaluation
from mrrag_llamaindex.statistics.bootstrap import Interval

STEPS = (
    ("mcr", "naive-rag"),
    ("mcr+ifa", "mcr"),
    ("mcr+ifa", "hard-mask"),
    ("mcr+ifa", "naive-rag"),
    ("naive-rag", "no-retrieval"),
    ("mcr+ifa-steps", "mcr+ifa"),
    ("mcr+ifa-steps", "mcr"),
    ("hard-mask-steps", "hard-mask"),
    ("pasta", "pasta-prompt"),
)
"""Pairs of methods whose difference is what the paper claims something about, and of those that
differ in the rows of generated tokens alone."""


class Step(Protocol):
    """How two methods compare: a dataclass with an interval ``ci``."""

    @property
    def method(self) -> str:
        """The first of them."""
        ...

    @property
    def baseline(self) -> str:
        """The other."""
        ...

    @property
    def ci(self) -> Interval | None:
        """Interval of the difference."""
        ...

    def sentence(self) -> str:
        """Say it in a line."""
        ...


class Compared(Protocol):
    """A result table."""

    def compared(
        self, runs: Mapping[str, Sequence[Prediction]], method: str, baseline: str, seed: int
    ) -> Step | None:
        """Return how two methods compare; None if they cannot be."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return the table as plain values."""
        ...


def steps(
    table: Compared,
    runs: Mapping[str, Sequence[Prediction]],
    seed: int = 0,
    further: Sequence[tuple[str, str]] = (),
) -> tuple[Step, ...]:
    """Compare the pairs of `STEPS` that ran, and further ones."""
    wanted = dict.fromkeys((*STEPS, *further))
    pairs = [(one, other) for one, other in wanted if one in runs and other in runs]
    found = [table.compared(runs, one, other, seed) for one, other in pairs]
    return tuple(item for item in found if item is not None)


def as_dict(
    table: Compared,
    run: Evaluation,
    comparisons: Sequence[Step],
    problems: Mapping[str, int],
) -> dict[str, Any]:
    """Return everything as plain values for JSON."""
    return {
        **table.as_dict(),
        "not_run": [{"method": name, "reason": why} for name, why in run.not_run.items()],
        "steps": [
            {**asdict(cast(Any, item)), "ci": None if item.ci is None else list(item.ci)}
            for item in comparisons
        ],
        "tuning": [_tuning(item) for item in run.tuned],
        "critical_layers": list(run.critical_layers),
        "notes": list(run.notes),
        "left_out": [vars(item) for item in run.left_out],
        "problems": dict(problems),
    }


def _tuning(item: Tuned[Method]) -> dict[str, Any]:
    return {
        "method": item.setting.name,
        "chosen": item.note,
        "questions": item.questions,
        "tries": [{**vars(one), "setting": one.setting.tuned_part()} for one in item.tries],
    }


def lines(run: Evaluation, comparisons: Sequence[Step]) -> list[str]:
    """Return what stands under the table."""
    sentences = [f"{name} was not run: {why}" for name, why in run.not_run.items()]
    sentences += [item.sentence() for item in comparisons]
    sentences += run.notes
    for item in run.tuned:
        sentences.append(f"{item.setting.name}: chosen {item.note}")
    if run.left_out:
        sentences.append(
            f"{len(run.left_out)} times a question could not be asked and counts as wrong; the "
            f"first: {run.left_out[0].identifier!r}, {run.left_out[0].reason}"
        )
    return sentences


def grid_lines(run: Evaluation) -> list[str]:
    """Return every setting that was tried, with its accuracy on the validation questions."""
    return [
        f"{item.setting.name}: {one.accuracy:.3f} ({one.confidence:.3f}) {one.setting.tuned_part()}"
        for item in run.tuned
        for one in item.tries
    ]


def add_to_markdown(path: Path, sentences: Sequence[str]) -> None:
    """Append lines to a table in Markdown, as a list."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + "".join(f"- {line}\n" for line in sentences))
