"""Every question against every pair: all similarity terms at once, and who may vote."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.votes.features import (
    FOLDS,
    Features,
    HeadVectors,
    centred,
    heads_of_fold,
)
from mrrag_llamaindex.mcr.vote import YES_NO, asks_yes_or_no, normal_answer
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS

RAW_TERMS = ALL_TERMS[len(HEAD_TERMS) :]
"""Those between the encoders' own features, which need no fitted heads."""

LEAST = np.float32(-1e9)
"""Stands for the score of a pair that may not vote."""


@dataclass(frozen=True, eq=False)
class VoteTable:
    """n questions of one kind, closed or open, against the m pairs whose answers are of that kind.

    Attributes
    ----------
    terms : tuple of str
        Names.
    values : ndarray, shape (t, n, m), float32
        Similarities; after `scaled`, of like influence.
    allowed : ndarray of bool, shape (n, m)
        False for the pairs of a question's own image, and of images nearly the same.
    answers : tuple of str
        Of each pair.
    codes : ndarray of int, shape (m,)
        Equal for answers that say the same. Closed: 1 for yes, 0 for no.
    golds : tuple of str
        Of each question.
    question_ids, owners : tuple of str
        Of each question; its owner is its image.
    inputs : ndarray, shape (n, d), float32
        ``[image ; text]`` features of each question, centred unit halves: what a gate reads.
    folds : ndarray of int, shape (n,)
        Of each question's image: what is fitted on questions is fitted on those of other folds.
    """

    terms: tuple[str, ...]
    values: NDArray[np.float32]
    allowed: NDArray[np.bool_]
    answers: tuple[str, ...]
    codes: NDArray[np.int64]
    golds: tuple[str, ...]
    question_ids: tuple[str, ...]
    owners: tuple[str, ...]
    inputs: NDArray[np.float32]
    folds: NDArray[np.int64]

    @property
    def affirmed(self) -> NDArray[np.bool_]:
        """Which gold answers of closed questions are a yes, shape (n,)."""
        return np.array([gold.strip().lower().startswith("y") for gold in self.golds])

    @property
    def scales(self) -> NDArray[np.float64]:
        """Standard deviation of each term over a question's pairs, the mean over the questions."""
        return np.array(
            [
                np.mean([v[a].std() for v, a in zip(term, self.allowed, strict=True) if a.any()])
                for term in self.values
            ]
        )

    def scaled(self, scales: NDArray[np.float64]) -> VoteTable:
        """Divide each term by its scale, so that equal weights mean equal influence."""
        divisors = np.maximum(scales, 1e-6).astype(np.float32)[:, None, None]
        return replace(self, values=self.values / divisors)

    def subset(self, rows: NDArray[np.intp]) -> VoteTable:
        """Return the table with some of the questions."""
        places = rows.tolist()
        return replace(
            self,
            values=self.values[:, rows],
            allowed=self.allowed[rows],
            golds=tuple(self.golds[n] for n in places),
            question_ids=tuple(self.question_ids[n] for n in places),
            owners=tuple(self.owners[n] for n in places),
            inputs=self.inputs[rows],
            folds=self.folds[rows],
        )


@dataclass(frozen=True, eq=False)
class VoteTables:
    """The four tables: training and test, closed and open; all in the scales of the training.

    Attributes
    ----------
    closed_training, closed_test, open_training, open_test : VoteTable
    closed_scales : ndarray, shape (t,)
        By which the terms of closed questions were divided.
    """

    closed_training: VoteTable
    closed_test: VoteTable
    open_training: VoteTable
    open_test: VoteTable
    closed_scales: NDArray[np.float64]


def vote_tables(features: Features, seed: int, *, heads: bool = True) -> VoteTables:
    """Compute the tables.

    Parameters
    ----------
    features : Features
    seed : int
        Of the folds and the heads.
    heads : bool
        Fit heads for the four terms in a common space; without, only the two raw terms are there.
    """
    fitted = [heads_of_fold(features, fold, seed) for fold in range(FOLDS)] if heads else []
    closed_training, closed_test = _pair_of_tables(features, fitted, seed, closed=True)
    open_training, open_test = _pair_of_tables(features, fitted, seed, closed=False)
    closed, opened = closed_training.scales, open_training.scales
    return VoteTables(
        closed_training.scaled(closed),
        closed_test.scaled(closed),
        open_training.scaled(opened),
        open_test.scaled(opened),
        closed,
    )


def _pair_of_tables(
    features: Features, fitted: list[HeadVectors], seed: int, *, closed: bool
) -> tuple[VoteTable, VoteTable]:
    """Return the training and the test table of one kind of question.

    Which questions are closed is read off their gold answers, to score them apart; which pairs
    vote on one, off the question's own words, as in `ask_by_vote`.
    """
    count = features.training
    golds = [normal_answer(item.answer) for item in features.questions]
    kinds = np.array([(gold in YES_NO) is closed for gold in golds])
    rows = np.flatnonzero(kinds)
    pairs = np.flatnonzero(kinds[:count])
    table = _table(features, fitted, seed, rows, pairs)
    asked = np.array([asks_yes_or_no(features.questions[n].question) for n in rows.tolist()])
    # A question in other words than its answer's kind is voted on by pairs of the other kind,
    # which cannot be right; it counts as wrong, and nothing is known of the gold answer.
    table = replace(table, allowed=table.allowed & (asked == closed)[:, None])
    return table.subset(np.flatnonzero(rows < count)), table.subset(np.flatnonzero(rows >= count))


def _table(
    features: Features,
    fitted: list[HeadVectors],
    seed: int,
    rows: NDArray[np.intp],
    pairs: NDArray[np.intp],
) -> VoteTable:
    count = features.training
    image_of = features.image_of
    of_training = np.unique(image_of[:count])
    images = centred(features.images, features.images[of_training])
    queries = centred(features.queries, features.queries[:count])
    statements = centred(features.statements, features.statements)
    names = ALL_TERMS if fitted else RAW_TERMS
    values = np.empty((len(names), len(rows), len(pairs)), dtype=np.float32)
    values[-2] = images[image_of[rows]] @ images[image_of[pairs]].T
    values[-1] = queries[rows] @ statements[pairs].T
    folds = features.folds(seed)[image_of[rows]]
    for fold, made in enumerate(fitted):
        own = np.flatnonzero(folds == fold)
        q_image, q_text = made.images[image_of[rows[own]]], made.queries[rows[own]]
        d_image, d_text = made.images[image_of[pairs]], made.statements[pairs]
        for place, (query, pair) in enumerate(
            ((q_image, d_text), (q_image, d_image), (q_text, d_text), (q_text, d_image))
        ):
            values[place, own] = query @ pair.T
    groups = features.groups
    answers = tuple(features.questions[n].answer for n in pairs.tolist())
    return VoteTable(
        terms=names,
        values=values,
        allowed=groups[image_of[rows]][:, None] != groups[image_of[pairs]][None, :],
        answers=answers,
        codes=_codes(answers),
        golds=tuple(features.questions[n].answer for n in rows.tolist()),
        question_ids=tuple(features.questions[n].question_id for n in rows.tolist()),
        owners=tuple(str(features.questions[n].patient_id) for n in rows.tolist()),
        inputs=np.hstack([images[image_of[rows]], queries[rows]]),
        folds=folds,
    )


def _codes(answers: tuple[str, ...]) -> NDArray[np.int64]:
    known = {"no": 0, "yes": 1}
    return np.array([known.setdefault(normal_answer(item), len(known)) for item in answers])
