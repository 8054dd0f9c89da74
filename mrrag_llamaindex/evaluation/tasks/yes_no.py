"""Yes or no: the task of the paper, scored as `report.metrics` says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.data_set import yes_or_no
from mrrag_llamaindex.evaluation.data.parsing import rule_named
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure
from mrrag_llamaindex.evaluation.tasks.task import Scored, Scoring, Task


def _right(predictions: Sequence[Prediction], rule: str) -> NDArray[np.float64]:
    verdict = rule_named(rule)
    return np.array([verdict(item.text) == item.gold for item in predictions], dtype=np.float64)


def _score(predictions: Sequence[Prediction], scoring: Scoring) -> Scored:
    return Scored({"accuracy": Measure.mean(_right(predictions, scoring.rule))})


YES_NO = Task(
    name="yes-no",
    asks="a question that is answered by yes or no",
    right="the first word, by `--scoring`",
    scored="accuracy, macro F1, precision, recall, F1 of yes; McNemar",
    asked=lambda rule, section: yes_or_no(rule),
    score=_score,
    each=_right,
    main="accuracy",
    votes=True,
    table="mrrag_llamaindex.evaluation.report.table:build_yes_no_table",
)
