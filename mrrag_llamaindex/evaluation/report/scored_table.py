"""The table of a task whose answers are scored by measures: open answers, choice, reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.report.mcnemar import check_same_questions
from mrrag_llamaindex.evaluation.report.numbers import columns, ends, listed, percent
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measures
from mrrag_llamaindex.evaluation.tasks.task import Scoring, Task
from mrrag_llamaindex.plots.words import count
from mrrag_llamaindex.statistics.bootstrap import Interval


@dataclass(frozen=True)
class Difference:
    """A method against another, on the same questions.

    Attributes
    ----------
    method, baseline : str
    metric : str
    difference : float
        Of the metric, method minus baseline.
    ci : (float, float) or None
        Its 95% interval, patients drawn for both alike.
    """

    method: str
    baseline: str
    metric: str
    difference: float
    ci: Interval | None

    def sentence(self) -> str:
        """Say it in a line, in points."""
        return (
            f"{self.method} minus {self.baseline}: {percent(self.difference, '+')} points"
            f"{ends(self.ci, '+')} of {self.metric.replace('_', ' ')}"
        )


@dataclass(frozen=True)
class ScoredRow:
    """One method's line: values and 95% intervals by metric, of those that it has."""

    method: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval | None]


@dataclass(frozen=True, eq=False)
class ScoredTable:
    """Methods on the same questions.

    Attributes
    ----------
    data : str
    task : Task
    n, patients : int
    rows : tuple of ScoredRow
    missing : mapping of str to str
        Metrics that no method has, and why.
    comparisons : tuple of Difference
        Of every other row with the baseline, by the main metric.
    frequent : mapping of str to float
        What the most frequent gold answer alone scores, by metric; empty where all differ.
    measures : mapping
        By method; what differences are drawn from.
    owners : tuple of str
        Whose question each is.
    seed : int
    """

    data: str
    task: Task
    n: int
    patients: int
    rows: tuple[ScoredRow, ...]
    missing: Mapping[str, str]
    comparisons: tuple[Difference, ...]
    frequent: Mapping[str, float]
    measures: Mapping[str, Measures]
    owners: tuple[str, ...]
    seed: int

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any row has, in the order of the task."""
        named = dict.fromkeys(name for row in self.rows for name in row.values)
        return list(named)

    @property
    def main(self) -> str:
        """The metric that methods are compared by."""
        return self.task.main

    @property
    def spare_columns(self) -> list[str]:
        """Heads of the columns that a narrow console may lack, the last one first."""
        return [self.task.heads.get(name, name) for name in self.metrics if name != self.main]

    @property
    def baselines(self) -> int:
        """Lines above the methods."""
        return int(bool(self.frequent))

    def compared(
        self, runs: Mapping[str, Sequence[Prediction]], method: str, baseline: str, seed: int
    ) -> Difference | None:
        """Return the difference of two methods by the main metric, None if one lacks it."""
        one, other = self.measures[method], self.measures[baseline]
        if self.main not in one or self.main not in other:
            return None
        mine, theirs = one[self.main], other[self.main]
        interval = mine.difference(theirs, self.owners, seed)
        return Difference(method, baseline, self.main, mine.value - theirs.value, interval)

    def comparison(self, method: str) -> Difference | None:
        """Return how a method compares with the baseline; None for the baseline itself."""
        return next((item for item in self.comparisons if item.method == method), None)

    def cells(self) -> list[list[str]]:
        """Return the lines as text, in percent."""
        versus = self.comparisons[0].baseline if self.comparisons else None
        metrics = self.metrics
        heads = [self.task.heads.get(name, name) for name in metrics]
        head = ["method", *heads, *([] if versus is None else [f"against {versus}"])]
        lines = []
        if self.frequent:
            values = [percent(self.frequent[n]) if n in self.frequent else "-" for n in metrics]
            lines.append(["most frequent answer", *values])
        for row in self.rows:
            line = [row.method]
            for name in metrics:
                known = name in row.values
                line.append(percent(row.values[name]) + ends(row.intervals[name]) if known else "-")
            if (other := self.comparison(row.method)) is not None:
                line.append(percent(other.difference, "+") + ends(other.ci, "+"))
            lines.append(line)
        return [head, *(line + ["-"] * (len(head) - len(line)) for line in lines)]

    def sentences(self) -> list[str]:
        """Return what has to be known to read the table, one sentence each."""
        against = f" Compared by {self.task.heads.get(self.main, self.main)}."
        return [
            f"{self.data}, task {self.task.name}: {count(self.n, 'question')} "
            f"about {count(self.patients, 'patient')}, in percent.",
            ("Brackets: 95% intervals, bootstrap by patient." if self.patients > 1 else "")
            + (against if self.comparisons else ""),
            *self.task.notes,
            *(f"Without {self.task.heads.get(n, n)}: {why}." for n, why in self.missing.items()),
        ]

    def numbers(self) -> tuple[list[str], list[dict[str, object]]]:
        """Return every number, unrounded shares from 0 to 1, with the ends of its interval."""
        about = {"data": self.data, "task": self.task.name, "n": self.n, "patients": self.patients}
        lines: list[dict[str, object]] = []
        if self.frequent:
            lines.append({"method": "most frequent answer", **self.frequent})
        for row in self.rows:
            line: dict[str, object] = {"method": row.method, **row.values}
            for name, interval in row.intervals.items():
                line |= columns(name, interval)
            if (other := self.comparison(row.method)) is not None:
                line |= {"versus": other.baseline, "difference": other.difference}
                line |= columns("difference", other.ci)
            lines.append(line)
        metrics = [f"{name}{part}" for name in self.metrics for part in ("", "_low", "_high")]
        versus = ["versus", "difference", "difference_low", "difference_high"]
        return [*about, "method", *metrics, *versus], [about | line for line in lines]

    def as_dict(self) -> dict[str, Any]:
        """Return the table as plain values: what ``mrrag eval --json`` prints."""
        return {
            "data": self.data,
            "task": self.task.name,
            "n": self.n,
            "patients": self.patients,
            "main": self.main,
            "most_frequent": dict(self.frequent) or None,
            "rows": [self._row(row) for row in self.rows],
            "missing": dict(self.missing),
        }

    def _row(self, row: ScoredRow) -> dict[str, Any]:
        values: dict[str, Any] = {"method": row.method}
        for name, value in row.values.items():
            values |= {name: value, f"{name}_ci": listed(row.intervals[name])}
        if (other := self.comparison(row.method)) is not None:
            values["versus"] = {**asdict(other), "ci": listed(other.ci)}
            del values["versus"]["method"]
        return values


def build_scored_table(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    *,
    task: Task,
    scoring: Scoring | None = None,
    seed: int = 0,
    baseline: str | None = None,
) -> ScoredTable:
    """Score methods that answered the same questions, and compare them.

    Parameters
    ----------
    data : str
    runs : mapping of str to sequence of Prediction
        By method, in the order of the rows.
    task : Task
    scoring : Scoring, optional
    seed : int
    baseline : str, optional
        Method with which every other is compared by the task's main metric.

    Raises
    ------
    InputError
        If there is no method, the baseline is not among them, or two methods did not answer the
        same questions.
    """
    if not runs:
        raise InputError("there is no method to score")
    if baseline is not None and baseline not in runs:
        raise InputError(f"baseline is {baseline!r}; there are: {', '.join(runs)}")
    scoring = scoring or Scoring()
    first = list(next(iter(runs.values())))
    owners = tuple(item.owner for item in first)
    rows: list[ScoredRow] = []
    measures: dict[str, Measures] = {}
    missing: dict[str, str] = {}
    for name, predictions in runs.items():
        check_same_questions(first, predictions)
        by_id = {item.question_id: item for item in predictions}
        scored = task.score([by_id[item.question_id] for item in first], scoring)
        measures[name] = scored.measures
        missing |= dict(scored.missing)
        values = {metric: measure.value for metric, measure in scored.measures.items()}
        intervals = {m: each.interval(owners, seed) for m, each in scored.measures.items()}
        rows.append(ScoredRow(name, values, intervals))
    had = {metric for row in rows for metric in row.values}
    table = ScoredTable(
        *(data, task, len(first), len(set(owners)), tuple(rows)),
        missing={name: why for name, why in missing.items() if name not in had},
        comparisons=(),
        frequent=_most_frequent(task, first, scoring),
        measures=measures,
        owners=owners,
        seed=seed,
    )
    if baseline is None:
        return table
    others = [table.compared(runs, name, baseline, seed) for name in runs if name != baseline]
    found = tuple(item for item in others if item is not None)
    return replace(table, comparisons=found)


def _most_frequent(
    task: Task, questions: Sequence[Prediction], scoring: Scoring
) -> dict[str, float]:
    """Score the most frequent gold answer, given to every question; nothing if all golds differ."""
    gold, count = Counter(item.gold for item in questions).most_common(1)[0]
    if count < 2 or not task.keeps_golds:
        return {}
    same = [
        Prediction("", item.question_id, item.patient_id, item.gold, gold, task=task.name)
        for item in questions
    ]
    return {name: item.value for name, item in task.score(same, scoring).measures.items()}
