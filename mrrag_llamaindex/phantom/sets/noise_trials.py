"""Questions for the noise study: documents drawn from a synthetic corpus, scored by MCR.

A relevant document is of a look-alike, a patient of the corpus with the same findings. An
irrelevant one is of any other patient, a contradicting one of such a patient whose report says the
opposite of the truth. All of them mention the finding that is asked about: noise that does not
mention it could be told from evidence by its words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.learning.fusion.training import LearnedFusion, train_fusion
from mrrag_llamaindex.mcr.score import FusionWeights, fuse
from mrrag_llamaindex.phantom.corpus import PhantomCorpus, make_corpus
from mrrag_llamaindex.phantom.sets.support_labels import corpus_terms, label_corpus
from mrrag_llamaindex.statistics.patients import split_by_patient
from mrrag_llamaindex.towers.protocol import DualTower

VALIDATION = 5000
"""Added to a seed: settings are chosen on these patients, none of whom is measured on."""

FUSION = 6000
"""Added to a seed: the fusion weights are learned on these patients."""

_PROFILES = 32
_LOOK_ALIKES = 5  # times the documents of a prompt; about seven in ten mention what is asked
_FUSION_PATIENTS, _FUSION_QUERIES = 400, 300


@dataclass(frozen=True)
class NoiseTrials:
    """Questions, and how many could not be asked.

    Attributes
    ----------
    questions : tuple of NoiseQuestion
    left_out : int
        Questions for which the corpus holds too few documents of some kind.
    """

    questions: tuple[NoiseQuestion, ...]
    left_out: int


def draw_noise_trials(
    seed: int,
    count: int,
    *,
    documents: int,
    towers: DualTower | None = None,
    weights: FusionWeights | None = None,
) -> NoiseTrials:
    """Draw a corpus and questions about other patients, each with its documents and their scores.

    Parameters
    ----------
    seed : int
        Below 10,000: such patients are never used in training.
    count : int
        Questions drawn.
    documents : int
        K in each prompt, at least 2.
    towers : DualTower, optional
        Embed query image, question, and each document's image and report. Without towers and
        weights the documents have no MCR score.
    weights : FusionWeights, optional
        Make MCR's score of their similarities.

    Raises
    ------
    InputError
        If a number is out of range, only one of towers and weights is given, or no question has
        enough documents.
    """
    if documents < 2 or count < 1 or seed < 0:
        raise InputError(
            f"{count} questions with {documents} documents (seed {seed}) cannot be drawn"
        )
    if (towers is None) != (weights is None):
        raise InputError("MCR's scores need both towers and weights")
    patients = _PROFILES * _LOOK_ALIKES * documents
    corpus = make_corpus(seed, patients=patients, queries=count, profiles=_PROFILES)
    scores = None if towers is None or weights is None else mcr_scores(corpus, towers, weights)
    return trials_of(corpus, scores, documents=documents, seed=seed)


def trials_of(
    corpus: PhantomCorpus, scores: NDArray[np.float64] | None, *, documents: int, seed: int
) -> NoiseTrials:
    """Draw every question's documents from a corpus.

    Parameters
    ----------
    corpus : PhantomCorpus
    scores : ndarray or None
        Shape (questions, studies), see `mcr_scores`.
    documents : int
    seed : int

    Raises
    ------
    InputError
        If no question has enough documents.
    """
    rng = np.random.default_rng([seed, documents])
    drawn = [
        _question(corpus, row, None if scores is None else scores[row], documents, rng)
        for row in range(len(corpus.queries))
    ]
    questions = tuple(item for item in drawn if item is not None)
    if not questions:
        raise InputError(f"no question has {documents} documents of every kind; ask for fewer")
    return NoiseTrials(questions, len(drawn) - len(questions))


def mcr_scores(
    corpus: PhantomCorpus, towers: DualTower, weights: FusionWeights
) -> NDArray[np.float64]:
    """Return MCR's score of every study for every question, shape (questions, studies)."""
    return np.stack([fuse(terms, weights) for _, terms, _ in corpus_terms(corpus, towers)])


def learn_weights(seed: int, towers: DualTower) -> LearnedFusion:
    """Learn the fusion weights as ``mrrag train-fusion --data phantom`` does.

    Three quarters of the questions are learned from, the rest decide when to stop.
    """
    corpus = make_corpus(seed, patients=_FUSION_PATIENTS, queries=_FUSION_QUERIES)
    examples = [item.example for item in label_corpus(corpus, towers) if item.example]
    fit, check = split_by_patient([item.patient_id for item in examples], 0.25, seed)
    return train_fusion([examples[i] for i in fit], [examples[i] for i in check])


def _question(
    corpus: PhantomCorpus,
    row: int,
    scores: NDArray[np.float64] | None,
    documents: int,
    rng: np.random.Generator,
) -> NoiseQuestion | None:
    query = corpus.queries[row]
    mentioning = [n for n, study in enumerate(corpus.studies) if query.finding in study.mentioned]
    alike = [n for n in mentioning if corpus.studies[n].findings == query.study.findings]
    others = [n for n in mentioning if corpus.studies[n].findings != query.study.findings]
    against = [n for n in others if corpus.studies[n].findings[query.finding] != query.answer]
    if min(map(len, (alike, others, against))) < documents:
        return None

    def draw(places: list[int]) -> tuple[PromptDocument, ...]:
        return tuple(
            PromptDocument(
                corpus.studies[n].pair_id,
                corpus.studies[n].report,
                None if scores is None else float(scores[n]),
            )
            for n in rng.choice(places, size=documents, replace=False)
        )

    return NoiseQuestion(
        question_id=query.study.pair_id,
        patient_id=query.study.patient_id,
        question=query.question,
        image=query.study.image,
        truth="yes" if query.answer else "no",
        relevant=draw(alike),
        irrelevant=draw(others),
        contradicting=draw(against),
        order=tuple(int(n) for n in rng.permutation(documents)),
    )
