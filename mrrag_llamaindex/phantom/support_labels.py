"""Which pairs support the answer to a synthetic question: the truth, for learning the fusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.phantom.corpus import PhantomCorpus, make_corpus
from mrrag_llamaindex.retrieval.fusion_recall import Candidates
from mrrag_llamaindex.retrieval.fusion_training import FusionExample
from mrrag_llamaindex.retrieval.score import similarity_terms

if TYPE_CHECKING:
    from mrrag_llamaindex.towers.protocol import DualTower

_EACH_TERM = 8
_NEGATIVES = 16


def label_phantom(
    seed: int, towers: DualTower, *, queries: int = 200, patients: int = 500
) -> list[Candidates]:
    """Draw a corpus and questions about other patients, and label every pair by its truth."""
    return label_corpus(make_corpus(seed, patients=patients, queries=queries), towers)


def label_corpus(corpus: PhantomCorpus, towers: DualTower) -> list[Candidates]:
    """Embed a corpus and its questions, and label every pair of every question."""
    images = towers.embed_images([study.image for study in corpus.studies])
    reports = towers.embed_texts([study.report for study in corpus.studies])
    asked_images = towers.embed_images([query.study.image for query in corpus.queries])
    asked = towers.embed_texts([query.question for query in corpus.queries])
    labelled = []
    for place, query in enumerate(corpus.queries):
        terms = similarity_terms(asked_images[place], asked[place], images, reports)
        truth = [study.supports(query.finding, query.answer) for study in corpus.studies]
        patient, right = query.study.patient_id, np.array(truth)
        labelled.append(Candidates(patient, terms, right, _example(patient, terms, right)))
    return labelled


def _example(
    patient_id: str, terms: NDArray[np.float64], right: NDArray[np.bool_]
) -> FusionExample | None:
    """Return what mining would make of a question if the generator knew the truth.

    Candidates are the best of every term, so that none of them is favoured. The positive is the
    supporting one that equal weights rank first, the negatives the unsupporting ones.
    """
    pool = np.unique(np.argsort(-terms, axis=0, kind="stable")[:_EACH_TERM])
    order = pool[np.argsort(-terms[pool].sum(axis=1), kind="stable")]
    positive, negatives = order[right[order]], order[~right[order]][:_NEGATIVES]
    if not len(positive) or not len(negatives):
        return None
    return FusionExample(patient_id, terms[positive[0]], terms[negatives])
