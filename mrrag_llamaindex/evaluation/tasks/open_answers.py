"""Open answers: a few words, compared with the gold answer's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.data_set import CLOSED, Asked
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.tasks.metrics.matching import exact_match, token_f1
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure
from mrrag_llamaindex.evaluation.tasks.metrics.text_metrics import bleu, rouge_l
from mrrag_llamaindex.evaluation.tasks.task import Scored, Scoring, Task
from mrrag_llamaindex.mcr.vote import YES_NO, normal_answer


def _gold(answer: str) -> str | tuple[str, str]:
    if normal_answer(answer) in YES_NO:
        return CLOSED, "the answer is a yes or a no: --task yes-no asks it"
    return answer


def _f1(predictions: Sequence[Prediction], rule: str) -> NDArray[np.float64]:
    return np.array([token_f1(item.text, item.gold) for item in predictions])


def _score(predictions: Sequence[Prediction], scoring: Scoring) -> Scored:
    answers, golds = [p.text for p in predictions], [p.gold for p in predictions]
    pairs = list(zip(answers, golds, strict=True))
    return Scored.of(
        {
            "exact_match": lambda: Measure.mean([float(exact_match(*pair)) for pair in pairs]),
            "token_f1": lambda: Measure.mean(_f1(predictions, scoring.rule)),
            "bleu_1": lambda: bleu(answers, golds, 1),
            "rouge_l": lambda: rouge_l(answers, golds),
        }
    )


OPEN = Task(
    name="open",
    asks="a question that is answered in a few words",
    right="the gold answer, after case, outer punctuation and a leading article are taken away",
    scored="exact match, token F1, BLEU-1, ROUGE-L",
    asked=lambda rule, section: Asked("open", _gold),
    score=_score,
    each=_f1,
    main="token_f1",
    heads={
        "exact_match": "exact match",
        "token_f1": "token F1",
        "bleu_1": "BLEU-1",
        "rouge_l": "ROUGE-L",
    },
    notes=(
        "Exact match and token F1 read both texts without case, outer punctuation, surplus blanks "
        "and a leading article.",
        "BLEU-1 is of the corpus (sacrebleu, lowered); ROUGE-L the mean F-measure (rouge-score).",
    ),
    max_new_tokens=32,
    votes=True,
)
