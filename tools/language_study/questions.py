"""VQA-RAD's yes/no questions as prompts of four statements, and who may see which image.

Three groups of images that share none: those of the test part's yes/no questions; and the others,
of which a quarter chooses layers and settings and the rest trains the reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.readers.vqa_rad import is_closed, read_all_questions
from mrrag_llamaindex.mcr.vote import normal_answer
from mrrag_llamaindex.statistics.patients import split_by_patient
from tests.real_towers import text_backbone

DOCUMENTS = 4
VALIDATION = 0.25
"""Share of the images not asked about in the test part that choose layers and settings."""

NEAREST = 10
"""Irrelevant statements are drawn from as many of other images with the most similar questions."""


ANSWERS_FROM = 0.6
"""Cosine from which two questions about one image have the same answer: 98% of training's have."""


@dataclass(frozen=True)
class Statement:
    """A question of the data set with its answer, ``"yes"`` or ``"no"``.

    ``part`` is ``"training"``, ``"validation"`` or ``"test"``; ``retrievable`` is whether it is of
    the data set's own training part.
    """

    question: str
    answer: str
    image: str
    part: str
    retrievable: bool

    @property
    def text(self) -> str:
        """What stands in a prompt."""
        return f"{self.question} {self.answer}"


@dataclass(frozen=True)
class Case:
    """One prompt: a question, its statements in order, and their relevance scores."""

    asked: Statement
    documents: tuple[Statement, ...]
    scores: tuple[float, ...]

    def shuffled(self, rng: np.random.Generator) -> Case:
        """Put the statements in random places."""
        order = rng.permutation(len(self.documents))
        return replace(
            self,
            documents=tuple(self.documents[i] for i in order),
            scores=tuple(self.scores[i] for i in order),
        )


class Questions:
    """All yes/no questions, and how alike they are.

    Parameters
    ----------
    folder : Path
        Of VQA-RAD.
    seed : int
        Of the split into training and validation images.

    Attributes
    ----------
    all : tuple of Statement
    similarity : ndarray
        (n, n): cosine of the questions, without their answers, by MiniLM.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        read = read_all_questions(folder)
        closed = [(q, part) for part in ("training", "test") for q in getattr(read, part)]
        closed = [(q, part) for q, part in closed if is_closed(q)]
        asked = {q.patient_id for q, part in closed if part == "test"}
        free = sorted({q.patient_id for q, _ in closed} - asked)
        validation = {free[i] for i in split_by_patient(free, VALIDATION, seed)[1]}
        self.all = tuple(
            Statement(
                " ".join(q.question.split()),
                normal_answer(q.answer),
                q.patient_id,
                _part(q.patient_id, part, asked, validation),
                part == "training",
            )
            for q, part in closed
        )
        self.similarity = _similarities([item.question for item in self.all])
        self._image = np.array([item.image for item in self.all])

    def of(self, part: str) -> list[int]:
        """Return the questions that are asked in a part."""
        return [i for i, item in enumerate(self.all) if item.part == part]

    def answerable(self, part: str, relevant: int = 1) -> list[int]:
        """Return those that the most similar statement about their image has the answer to.

        Another question about the same image says little ("is there a fracture?" of "is there
        air?"); one with a similarity of `ANSWERS_FROM` or more asks the same in other words.
        """
        kept = []
        for i in self.of(part):
            known = self.relevant(i)
            if len(known) >= relevant and self.similarity[i, known[0]] >= ANSWERS_FROM:
                kept.append(i)
        return kept

    def relevant(self, asked: int) -> list[int]:
        """Return statements about the same image in other words, the most similar first."""
        own = self.all[asked]
        same = [
            i
            for i in np.flatnonzero(self._image == own.image).tolist()
            if i != asked and self.all[i].question.lower() != own.question.lower()
        ]
        return self._ranked(asked, same)

    def irrelevant(self, asked: int, rng: np.random.Generator, parts: Sequence[str]) -> list[int]:
        """Draw statements about other images from those with the most similar questions."""
        others = [
            i
            for i in np.flatnonzero(self._image != self.all[asked].image).tolist()
            if self.all[i].part in parts
        ]
        return [int(i) for i in rng.permutation(self._ranked(asked, others)[:NEAREST])]

    def retrieved(self, asked: int, parts: Sequence[str], count: int) -> list[int]:
        """Return the data set's training statements about other images with the highest score."""
        others = [
            i
            for i in np.flatnonzero(self._image != self.all[asked].image).tolist()
            if self.all[i].part in parts and self.all[i].retrievable
        ]
        return self._ranked(asked, others)[:count]

    def _ranked(self, asked: int, among: list[int]) -> list[int]:
        return sorted(among, key=lambda i: (-self.similarity[asked, i], i))

    def known_case(self, asked: int, irrelevant: int, seed: int, parts: Sequence[str]) -> Case:
        """Make a prompt of which it is known what is relevant (score 1) and what is not (0).

        The same irrelevant statements come first at every level, so that the levels nest.
        """
        noise = self.irrelevant(asked, np.random.default_rng((seed, asked)), parts)
        kept = self.relevant(asked)[: DOCUMENTS - irrelevant]
        chosen = kept + noise[: DOCUMENTS - len(kept)]
        scores = [1.0] * len(kept) + [0.0] * (len(chosen) - len(kept))
        case = Case(self.all[asked], tuple(self.all[i] for i in chosen), tuple(scores))
        return case.shuffled(np.random.default_rng((seed, asked, irrelevant)))

    def retrieved_case(self, asked: int, parts: Sequence[str], count: int = DOCUMENTS) -> Case:
        """Make a prompt of what retrieval finds, the best first; scores are similarities."""
        chosen = self.retrieved(asked, parts, count)
        scores = tuple(float(self.similarity[asked, i]) for i in chosen)
        return Case(self.all[asked], tuple(self.all[i] for i in chosen), scores)


def _part(image: str, part: str, asked: set[str], validation: set[str]) -> str:
    if image in asked:
        # Rows of the training part about such an image are evidence of the test and never asked.
        return "test" if part == "test" else "evidence"
    return "validation" if image in validation else "training"


def _similarities(texts: Sequence[str]) -> NDArray[np.float32]:
    vectors = text_backbone().features(list(texts)).numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors @ vectors.T, dtype=np.float32)
