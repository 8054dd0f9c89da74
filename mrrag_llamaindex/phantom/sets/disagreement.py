"""Questions whose image shows the answer plainly, beside reports that say the opposite.

The phantom sees little of what is asked (`phantom.findings`), so that it has to read. Here the site
of the finding in question is made brighter where the finding is present and darker where it is not:
this survives the generator's processor, so that the image alone answers nearly every question, and
what documents do to that can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL.Image import Image

from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.render import shade
from mrrag_llamaindex.phantom.studies import PhantomStudy, draw_findings, draw_study
from mrrag_llamaindex.phantom.wording import write_question

PLAIN = 0.15
"""Brightness by which the site of the finding asked about is changed, of a full scale of 1."""

Evidence = Literal["none", "agree", "half, truth first", "half, opposite first", "opposite"]
"""What the reports say of the finding asked about, and which of them score highest."""


@dataclass(frozen=True, eq=False)
class Disagreement:
    """One question, with reports that say the truth and as many that say the opposite.

    Attributes
    ----------
    patient_id, question : str
    image : PIL.Image.Image
        Shows the truth plainly.
    truth : bool
    right, wrong : tuple of str
        Reports of other patients; each mentions the finding asked about.
    order : tuple of int
        Places of the documents in the prompt: a permutation.
    """

    patient_id: str
    question: str
    image: Image
    truth: bool
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    order: tuple[int, ...]

    def request(self, evidence: Evidence) -> PromptRequest:
        """Return what is asked with so much evidence.

        Where half of the reports say the opposite, all of one kind score 1 and the others 0. Where
        they all say the same, their scores fall evenly from 1 to 0.
        """
        half = len(self.order) // 2
        texts: tuple[str, ...] = {
            "none": (),
            "agree": self.right,
            "half, truth first": self.right[:half] + self.wrong[half:],
            "half, opposite first": self.wrong[:half] + self.right[half:],
            "opposite": self.wrong,
        }[evidence]
        scores = np.linspace(1, 0, len(texts))
        if evidence.startswith("half"):
            scores = (np.arange(len(texts)) < half).astype(float)
        documents = [
            PromptDocument(f"document-{n}", text, float(score))
            for n, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]
        return PromptRequest(self.question, [documents[n] for n in self.order[: len(texts)]])


def draw_disagreements(seed: int, count: int, *, documents: int = 4) -> list[Disagreement]:
    """Draw questions about new synthetic patients, each of whom is asked about once.

    Parameters
    ----------
    seed : int
        Below 10,000: such patients are never used in training.
    count : int
    documents : int
        In each prompt; an even number.

    Raises
    ------
    ValueError
        If the number of documents is odd or below 2.
    """
    if documents < 2 or documents % 2:
        raise ValueError(f"documents must be an even number of at least 2, got {documents}")
    rng = np.random.default_rng([seed, documents, 18])
    return [_draw(rng, documents, f"synthetic-{number}") for number in range(count)]


def _draw(rng: np.random.Generator, documents: int, patient_id: str) -> Disagreement:
    patient = draw_study(rng, patient_id, draw_findings(rng))
    finding = int(rng.integers(len(FINDINGS)))
    truth = patient.findings[finding]
    return Disagreement(
        patient_id=patient_id,
        question=write_question(rng, finding),
        image=shade(patient.image, finding, PLAIN if truth else -PLAIN),
        truth=truth,
        right=tuple(_report(rng, finding, truth) for _ in range(documents)),
        wrong=tuple(_report(rng, finding, not truth) for _ in range(documents)),
        order=tuple(int(n) for n in rng.permutation(documents)),
    )


def _report(rng: np.random.Generator, finding: int, value: bool) -> str:
    """Draw another patient's report that says ``value`` of a finding."""
    while True:
        study: PhantomStudy = draw_study(rng, "other", draw_findings(rng))
        if study.supports(finding, value):
            return study.report
