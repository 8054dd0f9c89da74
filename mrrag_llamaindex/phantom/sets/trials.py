"""Held-out trials of the phantom generator: a question, its documents, and the truth of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.learning.layers.blocking import Example
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.phantom.wording import write_question
from mrrag_llamaindex.steering.policy import SteeringPolicy


def draw_trials(seed: int, count: int, *, documents: int, irrelevant: int) -> list[Example]:
    """Draw questions about new synthetic patients, each of whom is asked about once.

    The score of a document is 1 for the patient's look-alikes and 0 for others.

    Parameters
    ----------
    seed : int
        Below the seeds of training.
    count : int
    documents : int
        Documents in each prompt; all of them mention the finding asked about.
    irrelevant : int
        How many of them are of patients with findings drawn independently.

    Raises
    ------
    ValueError
        If more documents are irrelevant than there are.
    """
    if not 0 <= irrelevant <= documents:
        raise ValueError(f"{irrelevant} irrelevant of {documents} documents")
    rng = np.random.default_rng([seed, documents, irrelevant])
    return [_draw_trial(rng, documents, irrelevant, f"synthetic-{n}") for n in range(count)]


def _draw_trial(
    rng: np.random.Generator, documents: int, irrelevant: int, patient_id: str
) -> Example:
    patient = draw_study(rng, "held-out", draw_findings(rng))
    finding = int(rng.integers(len(FINDINGS)))
    offered = []
    for number in range(documents):
        alike = number >= irrelevant
        findings = patient.findings if alike else draw_findings(rng)
        study = draw_study(rng, f"document-{number}", findings)
        while finding not in study.mentioned:
            study = draw_study(rng, f"document-{number}", findings)
        offered.append(PromptDocument(study.pair_id, study.report, float(alike)))
    order = rng.permutation(documents)
    question = write_question(rng, finding)
    request = PromptRequest(question, tuple(offered[int(i)] for i in order))
    answer = "yes" if patient.findings[finding] else "no"
    return Example(request, patient.image, answer, patient_id)


def answered_right(
    engine: LlavaEngine,
    trials: Sequence[Example],
    policy: SteeringPolicy | None = None,
    batch_size: int = 64,
) -> list[bool]:
    """Ask every trial; an answer is right if its first word is the truth, and wrong otherwise."""
    right: list[bool] = []
    for start in range(0, len(trials), batch_size):
        batch = trials[start : start + batch_size]
        answers = engine.generate(
            [trial.request for trial in batch],
            [trial.image for trial in batch],
            policy=policy,
            max_new_tokens=2,
        )
        right += [
            answer.text.lower().split()[:1] == [trial.answer]
            for answer, trial in zip(answers, batch, strict=True)
        ]
    return right
