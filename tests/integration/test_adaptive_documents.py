"""As many documents as are probable enough, and no answer where none is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import (
    FusionWeights,
    MRRAGIndex,
    MRRAGPostprocessor,
    answer_trace,
    query_image,
)
from mrrag_llamaindex.errors import EvidenceError, InputError, NoRelevantCase
from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.mcr.calibration import Abstention, Calibration, weights_digest

QUESTION = "Is there a pleural effusion?"


@pytest.fixture
def bundle(image) -> QueryBundle:
    return QueryBundle(QUESTION, image_path=str(image))


@pytest.fixture
def scores(hospital, image) -> list[float]:
    return [hit.score for hit in hospital.index.as_retriever().hits(QUESTION, str(image))]


def calibration(hospital, threshold: float | None = None) -> Calibration:
    """Probability (score + 3) / 6, and a threshold on it."""
    rule = None if threshold is None else Abstention(threshold, 0.1, 0.95, 30, 0, 40)
    identity = hospital.index.towers.identity
    digest = weights_digest(hospital.index.weights)
    return Calibration("isotonic", ((-3.0, 0.0), (3.0, 1.0)), identity, digest, rule)


def probability(score: float) -> float:
    return (score + 3) / 6


def between(scores, place: int) -> float:
    """Return a probability between those of two neighbours in rank."""
    return (probability(scores[place - 1]) + probability(scores[place])) / 2


@pytest.mark.parametrize(("place", "minimum", "kept"), [(2, 1, 2), (4, 1, 4), (1, 3, 3), (9, 1, 6)])
def test_documents_that_are_not_probable_enough_are_left_out(
    hospital, bundle, scores, place, minimum, kept
):
    retriever = hospital.index.as_retriever(
        calibration=calibration(hospital),
        minimum_probability=between(scores, place),
        minimum_documents=minimum,
    )
    nodes = retriever.retrieve(bundle)
    assert [item.score for item in nodes] == pytest.approx(scores[:kept], abs=1e-6)
    for item in nodes:
        facts = item.node.metadata["mrrag"]
        assert facts["left_out"] == 6 - kept
        assert facts["probability"] == pytest.approx(probability(item.score))


def test_one_document_stays_where_none_is_probable(hospital, bundle):
    retriever = hospital.index.as_retriever(
        calibration=calibration(hospital), minimum_probability=1.0
    )
    (item,) = retriever.retrieve(bundle)
    assert item.node.metadata["mrrag"]["left_out"] == 5


def test_model_reads_the_documents_that_are_kept_and_no_other(hospital, llm, image, scores):
    asked = ask(
        hospital.index,
        llm,
        str(image),
        QUESTION,
        calibration=calibration(hospital),
        minimum_probability=between(scores, 3),
    )
    assert len(asked.answer.document_ids) == 3
    assert asked.left_out == asked.as_dict()["left_out"] == 3
    for row in asked.sources():
        assert row["probability"] == pytest.approx(probability(row["score"]))


def test_without_a_calibration_nothing_is_called_probable(hospital, llm, image):
    asked = ask(hospital.index, llm, str(image), QUESTION)
    assert {row["probability"] for row in asked.sources()} == {None}
    assert asked.left_out == 0


def abstaining(hospital, threshold, llm, **options):
    return hospital.index.as_query_engine(
        llm=llm, calibration=calibration(hospital, threshold), abstain=True, **options
    )


@pytest.mark.parametrize("mode", ["compact", "tree_summarize", "refine"])
async def test_no_engine_turns_an_abstention_into_a_text(hospital, llm, bundle, scores, mode):
    low = probability(scores[0])
    engine = abstaining(hospital, low + 0.01, llm, response_mode=mode)
    with pytest.raises(NoRelevantCase) as caught:
        engine.query(bundle)
    with pytest.raises(NoRelevantCase):
        await engine.aquery(bundle)
    with pytest.raises(NoRelevantCase):
        abstaining(hospital, low + 0.01, llm, streaming=True).query(bundle)
    assert isinstance(caught.value, EvidenceError)
    assert caught.value.probability == pytest.approx(low)
    assert (caught.value.threshold, caught.value.error_rate) == (low + 0.01, 0.1)
    assert QUESTION not in str(caught.value)
    assert bundle.image_path not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.confidence) == (str(caught.value), 0.95)


def test_chat_engine_raises_it_too(hospital, llm, image):
    chat = hospital.index.as_chat_engine(
        chat_mode="context", llm=llm, calibration=calibration(hospital, 1.0), abstain=True
    )
    with query_image(str(image)), pytest.raises(NoRelevantCase):
        chat.chat(QUESTION)


def test_question_above_the_threshold_is_answered(hospital, llm, bundle, scores):
    engine = abstaining(hospital, probability(scores[0]) - 0.01, llm)
    response = engine.query(bundle)
    assert len(answer_trace(response.source_nodes)[-1].document_ids) == 6


def test_question_without_an_image_is_not_on_the_calibrated_scale(hospital):
    options = {"calibration": calibration(hospital, 0.5), "on_missing_image": "ignore"}
    nodes = hospital.index.as_retriever(**options).retrieve(QUESTION)
    assert all("probability" not in item.node.metadata["mrrag"] for item in nodes)
    for more in ({"abstain": True}, {"minimum_probability": 0.5}):
        with pytest.raises(InputError, match="image and a text"):
            hospital.index.as_retriever(**options, **more).retrieve(QUESTION)


def test_options_that_need_a_calibration_say_so(hospital):
    for options in ({"abstain": True}, {"minimum_probability": 0.5}):
        with pytest.raises(InputError, match=f"{next(iter(options))} needs a calibration"):
            hospital.index.as_retriever(**options)
    with pytest.raises(InputError, match="minimum_probability needs a calibration"):
        MRRAGPostprocessor(hospital.index, minimum_probability=0.5)
    with pytest.raises(InputError, match="this calibration has none"):
        hospital.index.as_retriever(calibration=calibration(hospital), abstain=True)


@pytest.mark.parametrize(
    "options", [{"minimum_probability": 1.5}, {"minimum_documents": 0}, {"minimum_documents": 7}]
)
def test_numbers_out_of_range_are_refused(hospital, options):
    with pytest.raises(InputError, match=next(iter(options))):
        hospital.index.as_retriever(calibration=calibration(hospital), **options)


def test_postprocessor_leaves_out_what_is_improbable_or_unknown(hospital, bundle, scores):
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = hospital.index.as_retriever(stamped=False).retrieve(bundle)
    nodes.append(NodeWithScore(node=TextNode(text="No nodule.")))
    postprocessor = MRRAGPostprocessor(
        hospital.index,
        calibration=calibration(hospital),
        minimum_probability=between(scores, 4),
        top_n=7,
        unknown="keep",
    )
    kept = postprocessor.postprocess_nodes(nodes, query_bundle=bundle)
    assert [item.score for item in kept] == pytest.approx(scores[:4], abs=1e-5)
    assert kept[0].node.metadata["mrrag"]["left_out"] == 3
    assert len(postprocessor.postprocess_nodes(nodes[-1:], query_bundle=bundle)) == 1


@pytest.mark.slow
def test_phantom_is_calibrated_on_some_patients_and_abstains_on_others(tmp_path):
    from mrrag_llamaindex.learning.calibration.data import of_questions
    from mrrag_llamaindex.learning.calibration.fit import CalibrationSettings, fit_calibration
    from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus
    from mrrag_llamaindex.phantom.sets.support_labels import label_corpus
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers("phantom")
    corpus = make_corpus(3, patients=40, queries=50, profiles=10)
    weights = FusionWeights()
    asked = of_questions(label_corpus(corpus, towers), weights)
    made = fit_calibration(
        asked,
        towers_identity=towers.identity,
        weights=weights,
        settings=CalibrationSettings("platt", error_rate=0.9),
    ).calibration
    assert made.abstention is not None
    best = made.probability([item.scores[0] for item in asked])
    # The threshold of such a lax rate lets everything pass: a stricter one shows both sides.
    rule = Abstention(float(np.median(best)), 0.9, 0.95, 12, 0, 25)
    strict = Calibration(made.method, made.curve, towers.identity, made.weights, rule, made.about)
    index = MRRAGIndex.from_pairs(as_pairs(corpus.studies), towers, tmp_path / "store")
    strict.save(tmp_path / "store" / "calibration.json")
    index.store.close()
    opened = MRRAGIndex.from_store(tmp_path / "store", towers=towers)
    retriever = opened.as_retriever(abstain=True)
    clear = [place for place in range(12) if abs(best[place] - rule.threshold) > 1e-3]
    assert {best[place] > rule.threshold for place in clear} == {True, False}
    for place in clear:
        query = corpus.queries[place]
        with query_image(query.study.image):
            if best[place] > rule.threshold:
                (first, *_) = retriever.retrieve(query.question)
                found = first.node.metadata["mrrag"]["probability"]
            else:
                with pytest.raises(NoRelevantCase) as caught:
                    retriever.retrieve(query.question)
                found = caught.value.probability
        assert found == pytest.approx(best[place], abs=1e-3)
