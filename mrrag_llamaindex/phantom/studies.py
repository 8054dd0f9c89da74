"""Seeded synthetic studies: a patient's findings, an image, a report that mentions some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.wording import write_question, write_report

MENTIONS = (4, 7)
"""Fewest and most findings that a report speaks of."""


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic image/report pair with known truth.

    Attributes
    ----------
    pair_id, patient_id : str
    findings : tuple of bool
        The patient's truth, one per entry of `FINDINGS`.
    mentioned : frozenset of int
        Findings that the report speaks of; the others are left unsaid.
    report : str
    image_seed : int
        Seed of the picture's clutter and noise.
    """

    pair_id: str
    patient_id: str
    findings: tuple[bool, ...]
    mentioned: frozenset[int]
    report: str
    image_seed: int

    @property
    def image(self) -> Image.Image:
        """The picture, mode RGB, 192 x 192; drawn anew at each access."""
        return render(self.findings, self.image_seed)

    def supports(self, finding: int, answer: bool) -> bool:
        """Whether the report mentions ``finding`` with the value ``answer``."""
        return finding in self.mentioned and self.findings[finding] == answer


@dataclass(frozen=True)
class PhantomQuery:
    """A yes/no question about a patient who is not in the corpus.

    Attributes
    ----------
    study : PhantomStudy
        The patient; the image is the query image, the report must not be shown to anyone.
    finding : int
        Index of the finding asked about.
    question : str
    """

    study: PhantomStudy
    finding: int
    question: str

    @property
    def answer(self) -> bool:
        """The truth."""
        return self.study.findings[self.finding]

    def matches(self, study: PhantomStudy) -> bool:
        """Whether ``study`` has this patient's findings and its report mentions the one asked."""
        return study.findings == self.study.findings and self.finding in study.mentioned


def draw_findings(rng: np.random.Generator) -> tuple[bool, ...]:
    """Draw a patient's findings, each present with probability one half."""
    return tuple(bool(value) for value in rng.random(len(FINDINGS)) < 0.5)


def draw_study(
    rng: np.random.Generator,
    name: str,
    findings: tuple[bool, ...],
    *,
    mentions: tuple[int, int] = MENTIONS,
) -> PhantomStudy:
    """Draw image and report of one patient.

    Parameters
    ----------
    rng : numpy.random.Generator
    name : str
        Becomes ``"<name>"`` of the patient and ``"<name>-1"`` of the pair.
    findings : tuple of bool
    mentions : (int, int)
        Fewest and most findings that the report speaks of.
    """
    count = int(rng.integers(mentions[0], mentions[1] + 1))
    mentioned = [int(i) for i in rng.permutation(len(FINDINGS))[:count]]
    report = write_report(rng, findings, mentioned)
    return PhantomStudy(
        f"{name}-1", name, findings, frozenset(mentioned), report, int(rng.integers(2**31))
    )


def draw_query(rng: np.random.Generator, name: str, findings: tuple[bool, ...]) -> PhantomQuery:
    """Draw a new patient with ``findings`` and a question about one of them."""
    study = draw_study(rng, name, findings)
    finding = int(rng.integers(len(FINDINGS)))
    return PhantomQuery(study, finding, write_question(rng, finding))
