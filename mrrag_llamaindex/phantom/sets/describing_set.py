"""The phantom's evaluation set for reports to be written, and for open questions."""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus
from mrrag_llamaindex.phantom.describing import REPORT_QUESTION, describe, open_question
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.sets.evaluation_set import PhantomSetting, facts_of
from mrrag_llamaindex.phantom.studies import MENTIONS
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

SETTING = PhantomSetting(patients=120, profiles=40, documents=6, mentions=MENTIONS)
"""About three look-alikes for each patient, whose reports together speak of nearly all findings;
and six documents, so that any retriever brings others, too."""

ASKED = 2
"""Findings that an open question names."""

QUESTIONS = 50
"""Questions per seed: a report takes 17 steps of the model, a yes or no one."""


def describing_set(
    seed: int,
    task: str,
    *,
    questions: int = QUESTIONS,
    setting: PhantomSetting | None = None,
) -> EvaluationSet:
    """Draw a corpus, and patients who are not in it, each with one question.

    Parameters
    ----------
    seed : int
    task : {"report", "open"}
        "report": all findings are to be described; "open": `ASKED` of them.
    questions : int
    setting : PhantomSetting, optional

    Raises
    ------
    InputError
        If it is another task.
    """
    if task not in ("report", "open"):
        raise InputError(f"--data phantom has nothing to ask for --task {task}")
    setting = setting or SETTING
    corpus = make_corpus(
        seed, patients=setting.patients, queries=questions, profiles=setting.profiles
    )
    rng = np.random.default_rng([seed, ASKED])
    drawn = []
    for query in corpus.queries:
        asked = sorted(map(int, rng.permutation(len(FINDINGS))[:ASKED]))
        question, answer = (
            (REPORT_QUESTION, describe(query.study.findings))
            if task == "report"
            else (open_question(asked), describe(query.study.findings, asked))
        )
        item = GoldQuestion(
            *(query.study.pair_id, query.study.image, question, answer),
            patient_id=query.study.patient_id,
        )
        drawn.append(item)
    return EvaluationSet(
        name="phantom",
        questions=tuple(drawn),
        pairs=tuple(as_pairs(corpus.studies)),
        labels={item.question_id: item.answer for item in drawn},
        facts={study.pair_id: facts_of(study) for study in corpus.studies},
        task=task,
    )
