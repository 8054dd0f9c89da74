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
from mrrag_llamaindex.evaluation.report.metrics import Majority, Row, majority, score

METRICS = ("accuracy", "macro_f1", "precision", "recall", "positive_f1", "invalid_rate")
"""Columns, in this order."""


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
            values[f"{name}_ci"] = _listed(row.intervals[name])
        values["classes"] = {name: asdict(scores) for name, scores in row.classes.items()}
        comparison = self.comparison(row.method)
        if comparison is not None:
            values["versus"] = {**asdict(comparison), "ci": _listed(comparison.ci)}
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


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)
