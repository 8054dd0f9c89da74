"""Report: findings or impression of a study, from its image and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.data.data_set import NO_SECTION, Asked
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.tasks.metrics.clinical_metrics import CLINICAL, HEADS, clinical
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure, f1
from mrrag_llamaindex.evaluation.tasks.metrics.report_labels import label_counts, label_f1
from mrrag_llamaindex.evaluation.tasks.metrics.sections import section_of
from mrrag_llamaindex.evaluation.tasks.metrics.text_metrics import bleu, meteor, rouge_l
from mrrag_llamaindex.evaluation.tasks.task import Scored, Scoring, Task

QUESTIONS = {
    "report": "Write the radiology report of this study.",
    "findings": "Write the findings of the radiology report of this study.",
    "impression": "Write the impression of the radiology report of this study.",
}
"""What is asked where the data set has no question of its own, by section."""


def _asked(rule: str, section: str) -> Asked:
    def gold(report: str) -> str | tuple[str, str]:
        return section_of(report, section) or (NO_SECTION, f"the report has no {section}")

    return Asked("report", gold, QUESTIONS[section])


def _score(predictions: Sequence[Prediction], scoring: Scoring) -> Scored:
    answers, golds = [p.text for p in predictions], [p.gold for p in predictions]
    labels = cache(lambda: label_f1(answers, golds))
    metrics: dict[str, Callable[[], Measure]] = {
        "label_f1": lambda: labels()[0],
        "label_macro_f1": lambda: labels()[1],
        "rouge_l": lambda: rouge_l(answers, golds),
        "bleu_4": lambda: bleu(answers, golds, 4),
        "meteor": lambda: meteor(answers, golds),
    }
    for name in CLINICAL:
        metrics[name] = (
            partial(clinical, name, answers, golds, scoring.python)
            if name in scoring.clinical
            else partial(_not_asked, name)
        )
    return Scored.of(metrics)


def _not_asked(name: str) -> Measure:
    raise MRRAGError(f"not asked for: --clinical {name}")


def _each(predictions: Sequence[Prediction], rule: str) -> NDArray[np.float64]:
    """Return each report's own F1 of findings, 1 where neither names one."""
    answers, golds = [p.text for p in predictions], [p.gold for p in predictions]
    counts = label_counts(answers, golds).sum(axis=-1)
    return np.where(counts.sum(axis=-1) > 0, f1(counts[:, 0], counts[:, 1], counts[:, 2]), 1.0)


REPORT = Task(
    name="report",
    asks="findings or impression of a study",
    right="the study's own report",
    scored="F1 of the findings that are called present (micro and macro, by word lists), ROUGE-L, "
    "BLEU-4, METEOR; RadGraph, CheXbert, RaTEScore and GREEN with `--clinical`",
    asked=_asked,
    score=_score,
    each=_each,
    main="label_f1",
    heads={
        "label_f1": "label F1",
        "label_macro_f1": "macro",
        "rouge_l": "ROUGE-L",
        "bleu_4": "BLEU-4",
        "meteor": "METEOR",
        **HEADS,
    },
    notes=(
        "Label F1: findings that a report calls present, by word lists (micro; macro over findings "
        "that occur); what a reference leaves uncertain is not counted.",
        "BLEU-4 is of the corpus (sacrebleu, lowered); ROUGE-L and METEOR are means.",
    ),
    max_new_tokens=160,
    keeps_golds=False,
)
