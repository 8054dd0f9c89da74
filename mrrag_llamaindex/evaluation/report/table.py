"""One table of methods: the numbers, as plain values, and what each format prints of them.

The majority baseline is part of the table, so that no format can leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.report.mcnemar import Comparison, check_same_questions, compare
from mrrag_llamaindex.evaluation.report.metrics import CLASSES, Majority, Row, majority, score
from mrrag_llamaindex.evaluation.report.numbers import columns, ends, listed, p_value, percent
from mrrag_llamaindex.evaluation.tasks.task import Scoring, Task
from mrrag_llamaindex.plots.words import count

METRICS = ("accuracy", "macro_f1", "precision", "recall", "positive_f1", "invalid_rate")
"""Columns, in this order."""

_HEADS = ("accuracy", "macro F1", "precision", "recall", "yes F1", "invalid")
_WITH_INTERVAL = ("accuracy", "macro_f1")
_OF_CLASS = ("precision", "recall", "f1", "support")


@dataclass(frozen=True)
class ResultTable:
    """Methods on the same questions.

    Attributes
    ----------
    data, rule : str
        Name of the data set, and how answers were read.
    n, patients : int
        Questions, and patients among them.
    majority : Majority
        What the most frequent label alone scores.
    rows : tuple of Row
    comparisons : tuple of Comparison
        Of every other row with one of them; empty where no baseline was named.
    """

    data: str
    rule: str
    n: int
    patients: int
    majority: Majority
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()

    def comparison(self, method: str) -> Comparison | None:
        """Return how a method compares with the baseline; None for the baseline itself."""
        return next((item for item in self.comparisons if item.method == method), None)

    baselines = 1
    spare_columns = ("macro F1",)
    metrics = METRICS
    main = "accuracy"

    def compared(
        self, runs: Mapping[str, Sequence[Prediction]], method: str, baseline: str, seed: int
    ) -> Comparison:
        """Return how two methods compare."""
        return compare(runs[method], runs[baseline], self.rule, seed)

    def cells(self) -> list[list[str]]:
        """Return the lines as text, in percent: the head, the majority baseline, the methods."""
        versus = self.comparisons[0].baseline if self.comparisons else None
        head = ["method", *_HEADS, *([] if versus is None else [f"against {versus}", "McNemar p"])]
        always = self.majority
        lines = [[f"always {always.label}", percent(always.accuracy), percent(always.macro_f1)]]
        for row in self.rows:
            line = [row.method]
            for name in METRICS:
                interval = row.intervals[name] if name in _WITH_INTERVAL else None
                line.append(percent(getattr(row, name)) + ends(interval))
            if (other := self.comparison(row.method)) is not None:
                line += [percent(other.difference, "+") + ends(other.ci, "+")]
                line += [p_value(other.p_mid)]
            lines.append(line)
        return [head, *(line + ["-"] * (len(head) - len(line)) for line in lines)]

    def sentences(self) -> list[str]:
        """Return what has to be known to read the table, one sentence each."""
        sentences = [
            f"{self.data}: {count(self.n, 'question')} about "
            f"{count(self.patients, 'patient')}, in percent.",
            "Brackets: 95% intervals, bootstrap by patient."
            if self.patients > 1
            else "No intervals: they are drawn over patients, and there is only one.",
            "An answer that says neither yes nor no is wrong, counts as invalid, and predicts "
            "neither."
            if self.rule == "leading"
            else "Answers read by the CARES rule, which takes everything that does not say no for "
            "yes.",
            "Precision, recall and macro F1 are means over yes and no; yes F1 is of that class "
            "alone.",
        ]
        if self.comparisons:
            sentences.append(
                "McNemar p (mid-p) takes questions for independent; several about one patient are "
                "not, so judge by the interval of the difference."
            )
        return sentences

    def numbers(self) -> tuple[list[str], list[dict[str, object]]]:
        """Return every number, unrounded shares from 0 to 1, with the ends of its interval.

        The last columns are precision, recall, F1 and support of each class by itself.
        """
        about = {"data": self.data, "rule": self.rule, "n": self.n, "patients": self.patients}
        always = self.majority
        lines: list[dict[str, object]] = [
            {"method": f"always {always.label}"}
            | {"accuracy": always.accuracy, "macro_f1": always.macro_f1}
        ]
        for row in self.rows:
            line: dict[str, object] = {"method": row.method}
            for name in METRICS:
                line[name] = getattr(row, name)
                line |= columns(name, row.intervals[name])
            if (other := self.comparison(row.method)) is not None:
                line |= {"versus": other.baseline, "difference": other.difference}
                line |= columns("difference", other.ci)
                line |= {n: getattr(other, n) for n in ("gained", "lost", "p_exact", "p_mid")}
            for name in CLASSES:
                line |= {f"{name}_{part}": getattr(row.classes[name], part) for part in _OF_CLASS}
            lines.append(line)
        metrics = [f"{name}{part}" for name in METRICS for part in ("", "_low", "_high")]
        versus = ["versus", "difference", "difference_low", "difference_high"]
        classes = [f"{name}_{part}" for name in CLASSES for part in _OF_CLASS]
        tests = ["gained", "lost", "p_exact", "p_mid"]
        names = [*about, "method", *metrics, *versus, *tests, *classes]
        return names, [about | line for line in lines]

    def as_dict(self) -> dict[str, Any]:
        """Return the table as plain values: what ``mrrag eval --json`` prints."""
        return {
            "data": self.data,
            "n": self.n,
            "patients": self.patients,
            "rule": self.rule,
            "majority": asdict(self.majority),
            "rows": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        values: dict[str, Any] = {"method": row.method}
        for name in METRICS:
            values[name] = getattr(row, name)
            values[f"{name}_ci"] = listed(row.intervals[name])
        values["classes"] = {name: asdict(scores) for name, scores in row.classes.items()}
        comparison = self.comparison(row.method)
        if comparison is not None:
            values["versus"] = {**asdict(comparison), "ci": listed(comparison.ci)}
            del values["versus"]["method"]
        return values


def build_table(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    *,
    rule: str = "leading",
    seed: int = 0,
    baseline: str | None = None,
) -> ResultTable:
    """Score methods that answered the same questions, and compare them.

    Parameters
    ----------
    data : str
        Name of the data set.
    runs : mapping of str to sequence of Prediction
        By method, in the order of the rows. Several data seeds go through `prediction.pool` first.
    rule, seed
        See `metrics.score`.
    baseline : str, optional
        Method with which every other is compared.

    Raises
    ------
    InputError
        If there is none, the baseline is not among them, an answer is of another method than it is
        filed under, or two methods did not answer the same questions.
    """
    if not runs:
        raise InputError("there is no method to score")
    if baseline is not None and baseline not in runs:
        raise InputError(f"baseline is {baseline!r}; there are: {', '.join(runs)}")
    first = next(iter(runs.values()))
    rows = []
    for name, predictions in runs.items():
        check_same_questions(first, predictions)
        rows.append(score(predictions, rule, seed))
        if rows[-1].method != name:
            raise InputError(f"the answers of {name!r} are of {rows[-1].method!r}")
    others = [] if baseline is None else [name for name in runs if name != baseline]
    return ResultTable(
        data=data,
        rule=rule,
        n=rows[0].n,
        patients=rows[0].patients,
        majority=majority(first),
        rows=tuple(rows),
        comparisons=tuple(compare(runs[n], runs[baseline or n], rule, seed) for n in others),
    )


def build_yes_no_table(
    data: str,
    runs: Mapping[str, Sequence[Prediction]],
    *,
    task: Task,
    scoring: Scoring | None = None,
    seed: int = 0,
    baseline: str | None = None,
) -> ResultTable:
    """Build the table as the task of yes or no has it, see `build_table`."""
    rule = scoring.rule if scoring else "leading"
    return build_table(data, runs, rule=rule, seed=seed, baseline=baseline)
