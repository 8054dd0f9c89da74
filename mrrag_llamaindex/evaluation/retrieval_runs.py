"""An evaluation set with its vectors: embedded once, searched exactly by every method.

An approximate index would add an error of its own to each row of the table, another one for each
score. A matrix product over some thousand pairs takes a millisecond.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.request import PromptDocument
from mrrag_llamaindex.integration.ingest import ingest_pairs
from mrrag_llamaindex.retrieval.candidates import SAME_IMAGE
from mrrag_llamaindex.retrieval.embedding import embed_pairs
from mrrag_llamaindex.retrieval.pair import Pair
from mrrag_llamaindex.retrieval.question_table import GoldQuestion
from mrrag_llamaindex.retrieval.score import document_vector, fused_query

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data_set import EvaluationSet
    from mrrag_llamaindex.evaluation.parsing import Label
    from mrrag_llamaindex.retrieval.store import PairStore
    from mrrag_llamaindex.retrieval.weights_file import AnyWeights
    from mrrag_llamaindex.towers.protocol import DualTower

Vectors = NDArray[np.float32]
_AT_ONCE = 64


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
        "yes" or "no", one for each question.
    pair_ids, reports : tuple of str
        m pairs that have a report.
    patients, studies : tuple of str or None
        Of each pair.
    documents : ndarray, shape (m, 2n), float32
        ``[d_i ; d_t]`` of each pair.
    q_images, q_texts : ndarray, shape (number of questions, n), float32
        Unit rows.
    facts : mapping
        Pair id to finding labels, where they are known.
    left_out : tuple of LeftOut
    """

    name: str
    questions: tuple[GoldQuestion, ...]
    golds: tuple[Label, ...]
    pair_ids: tuple[str, ...]
    reports: tuple[str, ...]
    patients: tuple[str | None, ...]
    studies: tuple[str | None, ...]
    documents: Vectors
    q_images: Vectors
    q_texts: Vectors
    facts: Any
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    @property
    def dimension(self) -> int:
        """n, the length of one half."""
        return self.documents.shape[1] // 2

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

    def some_pairs(self, most: int, seed: int) -> EmbeddedSet:
        """Return the same questions with at most so many of the pairs, drawn by the seed."""
        if len(self.pair_ids) <= most:
            return self
        places = np.sort(np.random.default_rng(seed).permutation(len(self.pair_ids))[:most])
        return replace(
            self,
            pair_ids=tuple(self.pair_ids[place] for place in places),
            reports=tuple(self.reports[place] for place in places),
            patients=tuple(self.patients[place] for place in places),
            studies=tuple(self.studies[place] for place in places),
            documents=self.documents[places],
        )

    def patient(self, row: int) -> str:
        """Return whom a question is about; one of unknown patient counts as a patient alone."""
        item = self.questions[row]
        return item.patient_id or item.study_id or f"question:{item.question_id}"

    def top(self, row: int, query: Vectors, k: int) -> list[PromptDocument]:
        """Return the k best pairs for a query vector, best first, none of them the question's own.

        Parameters
        ----------
        row : int
            Place of the question, whose own pair, study, patient and image are left out.
        query : ndarray, shape (2n,)
            Its inner product with ``[d_i ; d_t]`` is the score.
        k : int

        Returns
        -------
        list of PromptDocument
            With their scores; relevance is 0. Equal scores stand in the order of the pairs.
        """
        scores = self.documents @ np.asarray(query, dtype=np.float32)
        scores[self.own(row)] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        return [
            PromptDocument(self.pair_ids[place], self.reports[place], float(scores[place]))
            for place in order.tolist()
            if np.isfinite(scores[place])
        ]

    def fused(self, row: int, weights: AnyWeights, k: int) -> list[PromptDocument]:
        """Return the k best pairs by fused score; weights may depend on the question."""
        q_image, q_text = self.q_images[row], self.q_texts[row]
        query = fused_query(q_image, q_text, weights.weights_for(q_image, q_text))
        return self.top(row, query, k)

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
        images = self.documents[:, : self.dimension] @ self.q_images[row]
        return np.union1d(named, np.flatnonzero(images >= SAME_IMAGE)).astype(np.intp)

    @cached_property
    def _index(self) -> tuple[dict[str, list[int]], ...]:
        """Places by pair, study and patient."""
        return tuple(_places(names) for names in (self.pair_ids, self.studies, self.patients))


def embed_set(
    data: EvaluationSet,
    towers: DualTower,
    store: PairStore,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddedSet:
    """Embed the pairs of a set into a store, and its labelled questions.

    Parameters
    ----------
    data : EvaluationSet
        Questions without a label are not asked; the set itself lists why they have none.
    towers : DualTower
    store : PairStore
        Made with these towers; what is in it already is not embedded again.
    progress : callable, optional
        Takes the number of items embedded and the number of all.

    Raises
    ------
    InputError
        If no question, or no pair with a report, can be used.
    """
    left_out: list[LeftOut] = []
    total = len(data.pairs) + len(data.questions)

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, total)

    report = ingest_pairs(data.pairs, store, towers, progress=advance)
    left_out += [LeftOut(item.pair_id or f"row {item.row}", item.reason) for item in report.skipped]
    stored = store.get([pair.pair_id for pair in data.pairs])
    pairs = [pair for pair in stored.values() if pair.report.strip()]
    if not pairs:
        raise InputError(f"{data.name}: no pair with a report can be used as a document")
    asked = [item for item in data.questions if item.question_id in data.labels]
    kept, q_images, q_texts = _embed_questions(
        asked, towers, left_out, lambda done: advance(len(data.pairs) + done)
    )
    if not kept:
        raise InputError(
            f"{data.name}: none of the {len(data.questions)} questions can be asked; "
            + (f"the first: {left_out[-1].reason}" if asked else "none of them has a label")
        )
    return EmbeddedSet(
        name=data.name,
        questions=tuple(kept),
        golds=tuple(data.labels[item.question_id] for item in kept),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        reports=tuple(pair.report for pair in pairs),
        patients=tuple(pair.patient_id for pair in pairs),
        studies=tuple(pair.study_id for pair in pairs),
        documents=document_vector(
            np.stack([pair.image_vector for pair in pairs]),
            np.stack([pair.text_vector for pair in pairs]),
        ),
        q_images=q_images,
        q_texts=q_texts,
        facts=data.facts,
        left_out=tuple(left_out),
    )


def _embed_questions(
    questions: Sequence[GoldQuestion],
    towers: DualTower,
    left_out: list[LeftOut],
    advance: Callable[[int], None],
) -> tuple[list[GoldQuestion], Vectors, Vectors]:
    """Embed texts, and every image once, however many questions are asked about it."""
    images = {image_key(item): Pair(item.image, None, "query") for item in questions}
    texts = {item.question: Pair(None, item.question, "query") for item in questions}
    seen, unseen = _embedded(images, towers, "image", advance)
    read, unread = _embedded(texts, towers, "text")
    kept = []
    for item in questions:
        reason = unseen.get(image_key(item)) or unread.get(item.question)
        if reason is None:
            kept.append(item)
        else:
            left_out.append(LeftOut(item.question_id, reason))
    none = np.zeros((0, towers.dimension), dtype=np.float32)
    q_images = np.array([seen[image_key(item)] for item in kept]) if kept else none
    q_texts = np.array([read[item.question] for item in kept]) if kept else none
    return kept, q_images, q_texts


def _embedded(
    items: Mapping[Any, Pair],
    towers: DualTower,
    half: Literal["image", "text"],
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[Any, Vectors], dict[Any, str]]:
    """Return vectors, and the reasons of those that have none, by key."""
    keys = list(items)
    vectors: dict[Any, Vectors] = {}
    problems: dict[Any, str] = {}
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        made = embed_pairs([items[key] for key in some], towers)
        rows = made.image_vectors if half == "image" else made.text_vectors
        for place, key in enumerate(some):
            if place in made.problems:
                problems[key] = made.problems[place]
            else:
                vectors[key] = rows[place]
        advance(start + len(some))
    return vectors, problems


def image_key(item: GoldQuestion) -> object:
    """Return what is equal for questions about the same image."""
    return id(item.image) if isinstance(item.image, Image) else item.image


def _places(names: Iterable[str | None]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        if name is not None:
            found[name].append(place)
    return dict(found)
