"""What is particular to one task: what is asked, what counts as right, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.data.data_set import Asked
from mrrag_llamaindex.evaluation.data.prediction import Prediction

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure, Measures

SCORED_TABLE = "mrrag_llamaindex.evaluation.report.scored_table:build_scored_table"


@dataclass(frozen=True)
class Scoring:
    """How answers are to be read and scored, where there is a choice.

    Attributes
    ----------
    rule : str
        How a yes or no is read, see `data.parsing`.
    clinical : tuple of str
        Clinical metrics of reports, see `clinical_metrics.CLINICAL`.
    python : str
        Interpreter that has them; empty: this one.
    compared : tuple of (str, str)
        Rows whose difference is told, the first minus the second, beside those always compared.
    """

    rule: str = "leading"
    clinical: tuple[str, ...] = ()
    python: str = ""
    compared: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Scored:
    """What the answers of one method are worth.

    Attributes
    ----------
    measures : dict of str to Measure
        In the order of the table.
    missing : dict of str to str
        Metrics that could not be computed, and why.
    """

    measures: Measures
    missing: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Mapping[str, Callable[[], Measure]]) -> Scored:
        """Compute metrics; one that raises `MRRAGError`, as its library is not there, is named."""
        measures, missing = {}, {}
        for name, metric in metrics.items():
            try:
                measures[name] = metric()
            except MRRAGError as error:
                missing[name] = str(error)
        return cls(measures, missing)


@dataclass(frozen=True)
class Task:
    """Everything that is particular to one task.

    Attributes
    ----------
    name : str
        What ``--task`` takes.
    asks, right, scored : str
        What is asked, what counts as right, and how it is scored; for documentation.
    asked : callable
        From the rule and the section of a report (`sections.SECTIONS`) to what the readers of data
        sets take: which rows are questions of this task.
    score : callable
        From the answers of one method and a `Scoring` to `Scored`.
    main : str
        The metric by which settings are chosen and methods are compared.
    each : callable
        From answers and a rule to how right each of them is, shape (n,), in [0, 1]: what settings
        are chosen by.
    heads : mapping of str to str
        Metric to the head of its column, where the name is not good enough.
    notes : tuple of str
        What has to be known to read the table.
    max_new_tokens : int
        Longest answer, unless another is asked for.
    weighs_options : bool
        Whether the likelihood of every option is asked for, besides a text.
    votes : bool
        Whether pairs can answer by vote.
    keeps_golds : bool
        Whether files of answers hold the gold answers. Reports are patient data: they do not.
    table : str
        ``module:function`` that builds the table.
    """

    name: str
    asks: str
    right: str
    scored: str
    asked: Callable[[str, str], Asked]
    score: Callable[[Sequence[Prediction], Scoring], Scored]
    main: str
    each: Callable[[Sequence[Prediction], str], NDArray[np.float64]]
    heads: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    max_new_tokens: int = 32
    weighs_options: bool = False
    votes: bool = False
    keeps_golds: bool = True
    table: str = SCORED_TABLE

    def build_table(self, data: str, runs: Mapping[str, Sequence[Prediction]], **how: Any) -> Any:
        """Return the table of methods that answered the same questions."""
        return resolve_name(self.table)(data, runs, task=self, **how)
