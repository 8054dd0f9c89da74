"""Synthetic studies and questions with known truth.

A *patient* is eight yes/no findings. A *study* is one image of that patient and one report
that mentions some of the findings. Nothing stems from real people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.render import render
from mrrag_llamaindex.phantom.wording import write_question, write_report

MENTIONED_RANGE = (3, 7)
"""Fewest and most findings that a report mentions."""


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic image/report pair.

    Attributes
    ----------
    pair_id, patient_id : str
        Identifiers; several studies may belong to one patient.
    findings : tuple of bool
        The patient's truth, one per entry of `FINDINGS`.
    mentioned : frozenset of int
        Indices of the findings that the report speaks of, always truthfully.
    report : str
        English sentences.
    image_seed : int
        Seed of the image's clutter and noise.
    """

    pair_id: str
    patient_id: str
    findings: tuple[bool, ...]
    mentioned: frozenset[int]
    report: str
    image_seed: int

    def __post_init__(self) -> None:
        if not self.pair_id or not self.patient_id:
            raise ValueError("a study needs a pair_id and a patient_id")
        if len(self.findings) != len(FINDINGS):
            raise ValueError(f"expected {len(FINDINGS)} findings, got {len(self.findings)}")
        if not all(0 <= index < len(FINDINGS) for index in self.mentioned):
            raise ValueError("a mentioned finding does not exist")

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, 192 x 192; drawn on first use (about 10 ms) and kept."""
        return render(self.findings, self.image_seed)

    def supports(self, question: PhantomQuestion, findings: tuple[bool, ...]) -> bool:
        """Whether this report states the asked finding with the truth of the given patient."""
        index = question.finding
        return index in self.mentioned and self.findings[index] == findings[index]

    def matches(self, question: PhantomQuestion, findings: tuple[bool, ...]) -> bool:
        """Whether this is a *matching pair*: the same eight findings, the asked one mentioned."""
        return self.findings == findings and question.finding in self.mentioned


@dataclass(frozen=True)
class PhantomQuestion:
    """A yes/no question with known truth.

    Attributes
    ----------
    text : str
        For example "Is there a pleural effusion?".
    finding : int
        Index of the asked finding in `FINDINGS`.
    answer : bool
        True for "yes".
    """

    text: str
    finding: int
    answer: bool


def make_findings(rng: np.random.Generator) -> tuple[bool, ...]:
    """Draw a patient: every finding is present with probability one half, independently."""
    return tuple(bool(bit) for bit in rng.integers(0, 2, len(FINDINGS)))


def make_study(
    rng: np.random.Generator,
    findings: tuple[bool, ...],
    pair_id: str,
    patient_id: str,
    mentioned: int | None = None,
) -> PhantomStudy:
    """Make a study of a patient.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of wording, choice of mentioned findings, and the image's seed.
    findings : tuple of bool
        The patient's truth.
    pair_id, patient_id : str
        Identifiers.
    mentioned : int, optional
        How many findings the report mentions; drawn from `MENTIONED_RANGE` if not given.

    Returns
    -------
    PhantomStudy
        The study; its image is drawn only when it is looked at.
    """
    low, high = MENTIONED_RANGE
    count = int(rng.integers(low, high + 1)) if mentioned is None else mentioned
    chosen = [int(i) for i in rng.choice(len(FINDINGS), size=count, replace=False)]
    report = write_report(rng, findings, chosen)
    seed = int(rng.integers(2**31))
    return PhantomStudy(pair_id, patient_id, findings, frozenset(chosen), report, seed)


def make_question(
    findings: tuple[bool, ...], finding: int, rng: np.random.Generator | None = None
) -> PhantomQuestion:
    """Ask about a finding of a patient; plain "Is there ...?" unless a generator is given."""
    return PhantomQuestion(write_question(rng, finding), finding, findings[finding])
