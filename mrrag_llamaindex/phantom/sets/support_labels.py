"""Which pairs support the answer to a synthetic question: the truth, for learning the fusion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.learning.fusion.examples import FusionExample, QueryVectors
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import similarity_terms
from mrrag_llamaindex.phantom.corpus import PhantomCorpus, Regime, make_corpus
from mrrag_llamaindex.phantom.studies import PhantomQuery
from mrrag_llamaindex.towers.protocol import DualTower

_EACH_TERM = 32

QuestionTerms = tuple["PhantomQuery", NDArray[np.float64], QueryVectors]
"""A question; its four similarities to every study, shape (studies, 4); ``[q_i ; q_t]``."""


def label_phantom(
    seed: int,
    towers: DualTower,
    *,
    queries: int = 200,
    patients: int = 500,
    regime: Regime = "combination",
) -> list[FusionQuestion]:
    """Draw a corpus and questions about other patients, and label every pair by its truth."""
    corpus = make_corpus(seed, patients=patients, queries=queries, regime=regime)
    return label_corpus(corpus, towers)


def label_corpus(corpus: PhantomCorpus, towers: DualTower) -> list[FusionQuestion]:
    """Embed a corpus and its questions, and label every pair of every question.

    Returns
    -------
    list of FusionQuestion
        One for each question, with all pairs of the corpus and the four similarities.
    """
    labelled = []
    for query, terms, vector in corpus_terms(corpus, towers):
        patient_id = query.study.patient_id
        right = np.array([s.supports(query.finding, query.answer) for s in corpus.studies])
        example = _example(patient_id, terms, right, vector)
        labelled.append(FusionQuestion(patient_id, terms, right, example, vector))
    return labelled


def corpus_terms(corpus: PhantomCorpus, towers: DualTower) -> Iterator[QuestionTerms]:
    """Embed a corpus and its questions, and yield each question with its similarities."""
    blocks = Blocks.of(towers)
    images = towers.embed_images([study.image for study in corpus.studies])
    reports = towers.embed_texts([study.report for study in corpus.studies])
    query_images = towers.embed_images([query.study.image for query in corpus.queries])
    query_texts = towers.embed_texts([query.question for query in corpus.queries])
    for query, image, text in zip(corpus.queries, query_images, query_texts, strict=True):
        terms = similarity_terms(image, text, images, reports, terms=blocks.terms, blocks=blocks)
        yield query, terms, (image, text)


def _example(
    patient_id: str,
    terms: NDArray[np.float64],
    right: NDArray[np.bool_],
    query: QueryVectors,
) -> FusionExample | None:
    """Return what a question teaches: among the best of every term, all that support the answer.

    No term is favoured in the pool, and no weights choose a positive among the right ones: any of
    them may come first (see `learning.fusion.training`). Mining has no such truth and takes the
    document that makes the generator most confident.
    """
    pool = np.unique(np.argsort(-terms, axis=0, kind="stable")[:_EACH_TERM])
    positives, negatives = pool[right[pool]], pool[~right[pool]]
    if not len(positives) or not len(negatives):
        return None
    return FusionExample(patient_id, terms[positives], terms[negatives], query)
