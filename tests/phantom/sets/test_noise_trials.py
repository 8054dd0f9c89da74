"""Documents of the noise study: who is relevant, who is not, and MCR's scores of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.sets.noise_trials import draw_noise_trials, mcr_scores, trials_of

K = 2


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(11, patients=120, queries=40, profiles=8)


@pytest.fixture(scope="module")
def scores(corpus):
    return np.random.default_rng(0).random((len(corpus.queries), len(corpus.studies)))


def test_documents_are_what_their_kind_says(corpus, scores):
    studies = {study.pair_id: study for study in corpus.studies}
    queries = {query.study.pair_id: query for query in corpus.queries}
    trials = trials_of(corpus, scores, documents=K, seed=0)
    assert len(trials.questions) + trials.left_out == 40
    assert len(trials.questions) > 30
    opposite = []
    for item in trials.questions:
        query = queries[item.question_id]
        row = corpus.queries.index(query)
        assert item.truth == ("yes" if query.answer else "no")
        assert item.patient_id == query.study.patient_id
        for kind in ("relevant", "irrelevant", "contradicting"):
            offered = getattr(item, kind)
            assert len({document.document_id for document in offered}) == K
            for document in offered:
                study = studies[document.document_id]
                assert document.text == study.report
                assert document.score == scores[row, corpus.studies.index(study)]
                assert query.finding in study.mentioned
                assert (study.findings == query.study.findings) == (kind == "relevant")
                says = study.findings[query.finding]
                if kind == "contradicting":
                    assert says != query.answer
                if kind == "irrelevant":
                    opposite.append(says != query.answer)
    assert 0.3 < np.mean(opposite) < 0.8  # independent of the truth


def test_places_are_shuffled_and_the_seed_decides(corpus):
    first, again, other = (
        trials_of(corpus, None, documents=K, seed=seed).questions for seed in (0, 0, 1)
    )
    assert {item.order for item in first} == {(0, 1), (1, 0)}

    def drawn(questions):
        return [(item.order, item.relevant, item.irrelevant) for item in questions]

    assert drawn(first) == drawn(again)
    assert drawn(first) != drawn(other)


def test_too_small_a_corpus_is_said(corpus):
    with pytest.raises(InputError, match="60 documents"):
        trials_of(corpus, None, documents=60, seed=0)
    with pytest.raises(InputError, match="both towers and weights"):
        draw_noise_trials(0, 1, documents=2, weights=FusionWeights())
    with pytest.raises(InputError, match="0 questions"):
        draw_noise_trials(0, 0, documents=2)


class Towers:
    """Unit vectors that depend on what is embedded, without a network."""

    dimension = 16

    def embed_images(self, images, batch_size=32):
        return self._unit([np.asarray(image).astype(float)[::48, ::48, 0] for image in images])

    def embed_texts(self, texts, batch_size=32):
        return self._unit([[len(t), t.count("e"), *([1] * 14)] for t in texts])

    def _unit(self, rows):
        vectors = np.array([np.ravel(row) for row in rows], dtype=np.float64)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_mcr_scores_by_hand():
    """<q_i, d_t>, <q_i, d_i>, <q_t, d_t> and <q_t, d_i>, each of its own weight."""
    made = make_corpus(3, patients=3, queries=2, profiles=2)
    small = SimpleNamespace(studies=made.studies, queries=made.queries)
    towers = Towers()
    found = mcr_scores(small, towers, FusionWeights(2.0, 3.0, 5.0, 7.0))
    assert found.shape == (2, 3)
    for row, query in enumerate(made.queries):
        qi = towers.embed_images([query.study.image])[0]
        qt = towers.embed_texts([query.question])[0]
        for column, study in enumerate(made.studies):
            di = towers.embed_images([study.image])[0]
            dt = towers.embed_texts([study.report])[0]
            expected = 2 * qi @ dt + 3 * qi @ di + 5 * qt @ dt + 7 * qt @ di
            assert found[row, column] == pytest.approx(expected, abs=1e-5)
