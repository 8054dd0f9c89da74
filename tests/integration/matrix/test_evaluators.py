"""Evaluators of the host judge our answers with another LLM, and read plain text."""

from __future__ import annotations

import asyncio
import json

import pytest
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import (
    AnswerRelevancyEvaluator,
    BatchEvalRunner,
    ContextRelevancyEvaluator,
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    GuidelineEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
    RetrieverEvaluator,
    SemanticSimilarityEvaluator,
)
from llama_index.core.evaluation.multi_modal.faithfulness import MultiModalFaithfulnessEvaluator
from llama_index.core.evaluation.multi_modal.relevancy import MultiModalRelevancyEvaluator

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import MRRAGError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow

EVALUATORS = {
    AnswerRelevancyEvaluator: "1. yes\n2. yes\n[RESULT] 2",
    ContextRelevancyEvaluator: "1. yes\n2. yes\n[RESULT] 4",
    CorrectnessEvaluator: "5.0\nIt is right.",
    FaithfulnessEvaluator: "YES",
    GuidelineEvaluator: json.dumps({"passing": True, "feedback": "good"}),
    RelevancyEvaluator: "YES",
    SemanticSimilarityEvaluator: None,
    PairwiseComparisonEvaluator: "[[A]]",
    MultiModalFaithfulnessEvaluator: "YES",
    MultiModalRelevancyEvaluator: "YES",
}

kinds = pytest.mark.parametrize("kind", EVALUATORS)


def made(kind, judge):
    if kind is SemanticSimilarityEvaluator:
        return kind(embed_model=MockEmbedding(embed_dim=4))
    if kind in (MultiModalFaithfulnessEvaluator, MultiModalRelevancyEvaluator):
        return kind(multi_modal_llm=judge)
    return kind(llm=judge)


async def _awaited(ask, *args, **kwargs):
    result = ask(*args, **kwargs)
    return await result if asyncio.iscoroutine(result) else result


@pytest.fixture
def response(hospital, llm, checks):
    response = hospital.index.as_query_engine(llm).query(checks.bundle())
    checks.answered(response)
    return response


@kinds
@pytest.mark.parametrize("way", ["evaluate_response", "aevaluate_response"])
async def test_judge_reads_the_answer_and_no_marker(response, kind, way):
    judge = OtherLLM(reply=EVALUATORS[kind])
    extra = {"reference": "yes", "second_response": "no"}
    result = getattr(made(kind, judge), way)(QUESTION, response, **extra)
    result = await result if way.startswith("a") else result
    assert result.score is not None
    assert not [prompt for prompt in judge.prompts if MARKER in prompt]
    if EVALUATORS[kind] is not None:
        assert any(str(response) in prompt or QUESTION in prompt for prompt in judge.prompts)
    reads_contexts = (FaithfulnessEvaluator, RelevancyEvaluator, ContextRelevancyEvaluator)
    if issubclass(kind, reads_contexts):
        assert any("There is pleural effusion." in prompt for prompt in judge.prompts)


@kinds
@pytest.mark.parametrize("way", ["evaluate_response", "aevaluate_response"])
async def test_our_llm_as_the_judge_is_refused(response, llm, kind, way):
    if EVALUATORS[kind] is None:
        pytest.skip("it asks no LLM")
    extra = {"reference": "yes", "second_response": "no"}
    ask = getattr(made(kind, llm), way)
    with pytest.raises(MRRAGError, match="another LLM"):
        await _awaited(ask, QUESTION, response, **extra)


async def test_batch_of_evaluators(hospital, llm, other):
    other.reply = "YES"
    judges = {
        "faithful": FaithfulnessEvaluator(llm=other),
        "relevant": RelevancyEvaluator(llm=other),
    }
    runner = BatchEvalRunner(judges, workers=2)
    engine = hospital.index.as_query_engine(llm, image=hospital.images[PATIENT])
    results = await runner.aevaluate_queries(engine, queries=[QUESTION, "Is there a nodule?"])
    assert [item.passing for items in results.values() for item in items] == [True] * 4
    assert not [prompt for prompt in other.prompts if MARKER in prompt]


async def test_retriever_evaluator(hospital):
    evaluator = RetrieverEvaluator.from_metric_names(
        ["hit_rate", "mrr"], retriever=hospital.index.as_retriever()
    )
    expected = list(hospital.evidence(PATIENT, QUESTION))
    with query_image(hospital.images[PATIENT]):
        results = [
            evaluator.evaluate(QUESTION, expected_ids=expected[:1]),
            await evaluator.aevaluate(QUESTION, expected_ids=expected[1:2]),
        ]
    assert [result.metric_vals_dict["mrr"] for result in results] == [1.0, 0.5]
    assert results[0].retrieved_ids == expected
