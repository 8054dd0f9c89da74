"""Which pairs support the answer to a synthetic question: the truth, for learning the fusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.learning.fusion.examples import FusionExample
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.mcr.score import ALL_TERMS, similarity_terms
from mrrag_llamaindex.phantom.corpus import PhantomCorpus, Regime, make_corpus

if TYPE_CHECKING:
    from mrrag_llamaindex.towers.protocol import DualTower

_EACH_TERM = 32


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
    images = towers.embed_images([study.image for study in corpus.studies])
    reports = towers.embed_texts([study.report for study in corpus.studies])
    asked_images = towers.embed_images([query.study.image for query in corpus.queries])
    asked = towers.embed_texts([query.question for query in corpus.queries])
    labelled = []
    for place, query in enumerate(corpus.queries):
        halves = asked_images[place], asked[place]
        terms = similarity_terms(*halves, images, reports, terms=ALL_TERMS)
        truth = [study.supports(query.finding, query.answer) for study in corpus.studies]
        patient, right, vector = query.study.patient_id, np.array(truth), np.concatenate(halves)
        example = _example(patient, terms, right, vector)
        labelled.append(FusionQuestion(patient, terms, right, example, vector))
    return labelled


def _example(
    patient_id: str,
    terms: NDArray[np.float64],
    right: NDArray[np.bool_],
    query: NDArray[np.float32],
) -> FusionExample | None:
    """Return what a question teaches: among the best of every term, all that support the answer.

    No term is favoured in what is tried, and no weights choose a positive among those that are
    right: any of them may come first (see `fusion_training`). Mining has no such truth and takes
    the one that the generator is most confident with.
    """
    pool = np.unique(np.argsort(-terms, axis=0, kind="stable")[:_EACH_TERM])
    positives, negatives = pool[right[pool]], pool[~right[pool]]
    if not len(positives) or not len(negatives):
        return None
    return FusionExample(patient_id, terms[positives], terms[negatives], query)
