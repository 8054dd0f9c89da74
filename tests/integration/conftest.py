"""A hospital of 50 synthetic patients, tiny untrained towers, and the shipped phantom model.

What is tested here is which evidence arrives where, so the towers need not be good: they only
have to tell images apart, which untrained ones do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, Pair

PATIENTS = 50
ROUNDING = 2e-6
"""Of a score in float32, whose value is about 2 here."""

FINDINGS = ("pleural effusion", "nodule", "edema", "pneumothorax", "fracture")


def study_image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST)


@dataclass
class Hospital:
    index: MRRAGIndex
    images: dict[str, str]
    """Path of each patient's query image."""
    known: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """Scores of the first documents of (patient, question), as one retrieval alone gives them."""

    def scores(self, patient: str, question: str) -> dict[str, float]:
        key = patient, question
        if key not in self.known:
            retriever = self.index.as_retriever(similarity_top_k=12)
            hits = retriever.hits(question, self.images[patient])
            self.known[key] = {hit.pair_id: hit.score for hit in hits}
        return self.known[key]

    def evidence(self, patient: str, question: str) -> tuple[str, ...]:
        return tuple(self.scores(patient, question))[:6]

    def is_evidence(self, patient: str, question: str, names: Sequence[str]) -> bool:
        """Whether these documents are among the first six of a question, best first.

        Queries that are embedded together differ by rounding: pairs whose scores are equal but for
        that may change places, and they do in this hospital, whose towers have learned nothing.
        """
        scores = self.scores(patient, question)
        found = [scores.get(name, -math.inf) for name in names]
        ordered = all(later <= earlier + ROUNDING for earlier, later in pairwise(found))
        least = sorted(scores.values())[-6] - ROUNDING
        return ordered and min(found) >= least and len(set(names)) == len(names)


@pytest.fixture(scope="session")
def towers():
    from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
    from tests.tiny.towers import resnet_bert

    return resnet_bert(build_tokenizer(), dimension=32, width=16, layers=1, tokens=128)


def make_hospital(towers, folder: Path) -> Hospital:
    pairs, images = [], {}
    for number in range(PATIENTS):
        patient = f"patient-{number:02d}"
        for study in range(3):
            path = folder / f"{patient}-{study}.png"
            study_image(1000 * number + study).save(path)
            shown, absent = FINDINGS[number % 5], FINDINGS[(number + study + 1) % 5]
            report = f"There is {shown}. No {absent}."
            pairs.append(Pair(str(path), report, f"{patient}/{study}", patient))
        query = folder / f"{patient}-query.png"
        study_image(1000 * number + 999).save(query)
        images[patient] = str(query)
    return Hospital(MRRAGIndex.from_pairs(pairs, towers), images)


@pytest.fixture(scope="session")
def hospital(towers, tmp_path_factory) -> Hospital:
    return make_hospital(towers, tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="session")
def llm() -> MRRAGLLaVA:
    return MRRAGLLaVA(model="phantom", max_new_tokens=3)


@pytest.fixture
def image(hospital: Hospital) -> Path:
    return Path(hospital.images["patient-07"])
