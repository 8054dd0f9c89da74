"""An evaluation set with its vectors: searched exactly, the same for every method.

An approximate index would add an error of its own to each row of the table, another one for each
score. A matrix product over some thousand pairs takes a millisecond.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import fused_query
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.hits import OnePer, case_key
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.same_image import SAME_IMAGE

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LeftOut:
    """A question or pair of the set that could not be used, and why."""

    identifier: str
    reason: str


@dataclass(frozen=True, eq=False)
class EmbeddedSet:
    """Questions with gold labels, the pairs that they are asked over, and all their vectors.

    Attributes
    ----------
    name : str
    questions : tuple of GoldQuestion
        Those that have a label.
    golds : tuple of str
        One for each question: "yes" or "no", or what `EvaluationSet.labels` has for another task.
    pair_ids, reports : tuple of str
        m pairs that have a report.
    patients, studies : tuple of str or None
        Of each pair.
    documents : ndarray, shape (m, l), float32
        ``[d_i ; d_t]`` of each pair.
    q_images, q_texts : ndarray, shape (number of questions, n), float32
        Unit rows; with raw blocks longer.
    facts : mapping
        Pair id to finding labels, where they are known.
    left_out : tuple of LeftOut
    towers_blocks : Blocks or None
        How the vectors are divided; None for one space.
    answers : tuple of str or None
        What each pair itself answered; empty where no pair holds an answer.
    unread : tuple of LeftOut
        Questions whose text the towers cannot read, and why; they are asked all the same.
    one_per : {"study", "patient", "none"}
        What takes one place among the documents at most, see `one_per_case`.
    task : str
        What is asked.
    options : mapping
        By question id: the texts of its options, for the task ``choice``.
    """

    name: str
    questions: tuple[GoldQuestion, ...]
    golds: tuple[str, ...]
    pair_ids: tuple[str, ...]
    reports: tuple[str, ...]
    patients: tuple[str | None, ...]
    studies: tuple[str | None, ...]
    documents: Vectors
    q_images: Vectors
    q_texts: Vectors
    facts: Any
    left_out: tuple[LeftOut, ...] = ()
    towers_blocks: Blocks | None = None
    answers: tuple[str | None, ...] = ()
    unread: tuple[LeftOut, ...] = ()
    one_per: OnePer = "study"
    task: str = "yes-no"
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    @property
    def blocks(self) -> Blocks:
        """How the vectors are divided."""
        return self.towers_blocks or Blocks(int(self.documents.shape[1]) // 2)

    def subset(self, rows: Sequence[int], name: str | None = None) -> EmbeddedSet:
        """Return the same pairs with some of the questions."""
        places = list(rows)
        return replace(
            self,
            name=name or self.name,
            questions=tuple(self.questions[row] for row in places),
            golds=tuple(self.golds[row] for row in places),
            q_images=self.q_images[places],
            q_texts=self.q_texts[places],
        )

    def sample_pairs(self, count: int, seed: int) -> EmbeddedSet:
        """Return the same questions with at most ``count`` of the pairs, drawn by the seed."""
        if len(self.pair_ids) <= count:
            return self
        places = np.sort(np.random.default_rng(seed).permutation(len(self.pair_ids))[:count])
        return replace(
            self,
            pair_ids=tuple(self.pair_ids[place] for place in places),
            reports=tuple(self.reports[place] for place in places),
            patients=tuple(self.patients[place] for place in places),
            studies=tuple(self.studies[place] for place in places),
            documents=self.documents[places],
            answers=tuple(self.answers[place] for place in places) if self.answers else (),
        )

    def patient(self, row: int) -> str:
        """Return whom a question is about; one of unknown patient counts as a patient alone."""
        item = self.questions[row]
        return item.patient_id or item.study_id or f"question:{item.question_id}"

    def top(
        self, row: int, query: Vectors, k: int, among: NDArray[np.bool_] | None = None
    ) -> list[PromptDocument]:
        """Return the k best pairs for a query vector, best first, none of them the question's own.

        Parameters
        ----------
        row : int
            Place of the question, whose own pair, study, patient and image are left out.
        query : ndarray, shape (l,)
            Its inner product with ``[d_i ; d_t]`` is the score.
        k : int
        among : ndarray of bool, shape (m,), optional
            Only these pairs.

        Returns
        -------
        list of PromptDocument
            With their scores. Equal scores stand in the order of the pairs. One of each case, as
            `one_per` says.
        """
        scores = self.documents @ np.asarray(query, dtype=np.float32)
        scores[self.own(row)] = -np.inf
        if among is not None:
            scores[~among] = -np.inf
        documents: list[PromptDocument] = []
        cases: set[object] = set()
        for place in np.argsort(-scores, kind="stable").tolist():
            if len(documents) == k or not np.isfinite(scores[place]):
                break
            case = case_key(
                self.one_per, self.patients[place], self.studies[place], self.reports[place]
            )
            if case in cases:
                continue  # a further one of a case, as `one_per_case` leaves it out
            if case is not None:
                cases.add(case)
            score = float(scores[place])
            documents.append(PromptDocument(self.pair_ids[place], self.reports[place], score))
        return documents

    def _case(self, place: int) -> tuple[str | None, str] | None:
        """Patient and study of a pair, None if it names no study."""
        study = self.studies[place]
        return None if study is None else (self.patients[place], study)

    def fused(
        self, row: int, weights: AnyWeights, k: int, among: NDArray[np.bool_] | None = None
    ) -> list[PromptDocument]:
        """Return the k best pairs by fused score; weights may depend on the question."""
        return self.top(row, self._fused_query(row, weights), k, among)

    def scores(self, row: int, weights: AnyWeights) -> Vectors:
        """Return the fused score of every pair for a question, shape (m,)."""
        return np.asarray(self.documents @ self._fused_query(row, weights))

    def _fused_query(self, row: int, weights: AnyWeights) -> Vectors:
        q_image, q_text = self.q_images[row], self.q_texts[row]
        return fused_query(q_image, q_text, weights.weights_for(q_image, q_text), self.blocks)

    def own(self, row: int) -> NDArray[np.intp]:
        """Return the places of the pairs that a question may not see: they give it away.

        Its own pair, study and patient, as far as they are known, and its very image stored
        under another name.
        """
        exclude = self.questions[row].exclusion()
        index = self._index
        named = [
            place
            for role, names in enumerate((exclude.pair_ids, exclude.study_ids, exclude.patient_ids))
            for name in names
            for place in index[role].get(name, ())
        ]
        own_cases = {self._case(p) for name in exclude.pair_ids for p in index[0].get(name, ())}
        for case in own_cases:
            if case is not None:
                named += [p for p in index[1].get(case[1], ()) if self.patients[p] == case[0]]
        n = self.blocks.head
        images = self.documents[:, :n] @ self.q_images[row][:n]
        return np.union1d(named, np.flatnonzero(images >= SAME_IMAGE)).astype(np.intp)

    @cached_property
    def _index(self) -> tuple[dict[str, list[int]], ...]:
        """Places by pair, study and patient."""
        return tuple(_places(names) for names in (self.pair_ids, self.studies, self.patients))


def _places(names: Iterable[str | None]) -> dict[str, list[int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        if name is not None:
            places[name].append(place)
    return dict(places)
