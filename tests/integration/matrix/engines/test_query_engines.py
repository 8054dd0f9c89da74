"""Query engines that rewrite the question or ask several times."""

from __future__ import annotations

import json

import pytest
from llama_index.core import Settings
from llama_index.core.evaluation import GuidelineEvaluator, RelevancyEvaluator
from llama_index.core.indices.query.query_transform import (
    DecomposeQueryTransform,
    HyDEQueryTransform,
    StepDecomposeQueryTransform,
)
from llama_index.core.indices.query.query_transform.base import (
    IdentityQueryTransform,
    ImageOutputQueryTransform,
)
from llama_index.core.indices.query.query_transform.feedback_transform import (
    FeedbackQueryTransformation,
)
from llama_index.core.query_engine import (
    MultiStepQueryEngine,
    RetryGuidelineQueryEngine,
    RetryQueryEngine,
    RetrySourceQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import QueryBundle

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from tests.integration.matrix.asking import SECOND, ask, query_ways
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import OtherLLM


@query_ways
async def test_hyde_searches_with_its_document_and_keeps_the_image(
    hospital, engine, other, checks, way
):
    other.reply = "There is a fracture. No edema."
    hyde = TransformQueryEngine(engine, HyDEQueryTransform(llm=other))
    with query_image(hospital.images[PATIENT]):
        response = await ask(hyde, QUESTION, way)
    texts = [other.reply, QUESTION]
    bundle = QueryBundle(QUESTION, hospital.images[PATIENT], custom_embedding_strs=texts)
    expected = hospital.index.as_retriever().retrieve(bundle)
    shown = {item.node.node_id: item.node.metadata["mrrag"] for item in response.source_nodes}
    assert list(shown) == [item.node.node_id for item in expected]
    assert [facts["score"] for facts in shown.values()] == [item.score for item in expected]
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    checks.image(response.source_nodes)


@query_ways
async def test_hyde_given_only_a_bundle_says_where_the_image_went(engine, other, checks, way):
    hyde = TransformQueryEngine(engine, HyDEQueryTransform(llm=other))
    with pytest.raises(InputError, match="HyDE"):
        await ask(hyde, checks.bundle(), way)


@query_ways
async def test_engine_bound_to_an_image_needs_no_block(hospital, llm, other, checks, way):
    other.reply = SECOND
    bound = hospital.index.as_query_engine(llm, image=hospital.images[PATIENT])
    transformed = TransformQueryEngine(bound, DecomposeQueryTransform(llm=other))
    checks.answered(await ask(transformed, checks.bundle(), way), SECOND)


@query_ways
@pytest.mark.parametrize(
    "transform", [DecomposeQueryTransform, IdentityQueryTransform, StepDecomposeQueryTransform]
)
async def test_transform(hospital, engine, other, checks, way, transform):
    other.reply = SECOND
    options = {} if transform is IdentityQueryTransform else {"llm": other}
    metadata = {"index_summary": "reports", "prev_reasoning": "none"}
    transformed = TransformQueryEngine(engine, transform(**options), transform_metadata=metadata)
    with query_image(hospital.images[PATIENT]):
        response = await ask(transformed, QUESTION, way)
    checks.answered(response, QUESTION if transform is IdentityQueryTransform else SECOND)


def test_image_output_transform_rewrites_the_question(hospital, engine, checks):
    transformed = TransformQueryEngine(engine, ImageOutputQueryTransform(width=100))
    with query_image(hospital.images[PATIENT]):
        response = transformed.query(QUESTION)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    checks.image(response.source_nodes)


@query_ways
@pytest.mark.parametrize("use_async", [False, True])
async def test_sub_questions_keep_the_image_and_have_a_trace_each(
    hospital, tools, other, checks, way, use_async
):
    generator = OtherLLM(
        reply=json.dumps(
            {
                "items": [
                    {"sub_question": QUESTION, "tool_name": "first"},
                    {"sub_question": SECOND, "tool_name": "second"},
                ]
            }
        )
    )
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        question_gen=LLMQuestionGenerator.from_defaults(llm=generator),
        response_synthesizer=get_response_synthesizer(llm=other),
        use_async=use_async,
        verbose=False,
    )
    with query_image(hospital.images[PATIENT]):
        response = await ask(engine, "What is there?", way)
    assert len(checks.answered(response, QUESTION, SECOND)) == 2
    assert "Response: " in other.prompts[-1]


def test_sub_questions_joined_by_our_llm_are_refused(hospital, tools, llm):
    items = [{"sub_question": QUESTION, "tool_name": "first"}]
    generator = OtherLLM(reply=json.dumps({"items": items}))
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        question_gen=LLMQuestionGenerator.from_defaults(llm=generator),
        response_synthesizer=get_response_synthesizer(llm=llm),
        use_async=False,
        verbose=False,
    )
    with (
        query_image(hospital.images[PATIENT]),
        pytest.raises(EvidenceError, match="answers to other questions"),
    ):
        engine.query("What is there?")


@query_ways
async def test_sub_questions_that_all_fail_leave_the_words_of_the_host(tools, other, checks, way):
    """It logs their errors and goes on; that nothing was read is seen in the sources."""
    items = [{"sub_question": QUESTION, "tool_name": "first"}]
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        question_gen=LLMQuestionGenerator.from_defaults(llm=OtherLLM(reply=json.dumps(items))),
        response_synthesizer=get_response_synthesizer(llm=other),
        use_async=way == "aquery",
        verbose=False,
    )
    response = await ask(engine, checks.bundle(), way)  # the image of a bundle is not passed on
    assert (str(response), response.source_nodes) == ("Empty Response", [])
    with pytest.raises(EvidenceError, match="no source node"):
        answer_trace(response.source_nodes)


@query_ways
async def test_steps_keep_the_image_and_have_a_trace_each(hospital, engine, other, checks, way):
    questions = iter([QUESTION, SECOND])
    steps = OtherLLM(reply=lambda _: next(questions))
    stepped = MultiStepQueryEngine(
        engine,
        StepDecomposeQueryTransform(llm=steps),
        response_synthesizer=get_response_synthesizer(llm=other),
        num_steps=2,
        index_summary="reports",
    )
    with query_image(hospital.images[PATIENT]):
        response = await ask(stepped, "What is there?", way)
    assert len(checks.answered(response, QUESTION, SECOND)) == 2


@query_ways
async def test_retry_with_feedback_asks_again_about_the_image(hospital, engine, checks, way):
    verdicts = iter(["NO, it is wrong", "YES"])
    judge = OtherLLM(reply=lambda _: next(verdicts))
    retry = RetryQueryEngine(engine, RelevancyEvaluator(llm=judge))
    with query_image(hospital.images[PATIENT]):
        response = await ask(retry, QUESTION, way)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    checks.image(response.source_nodes)
    assert len(judge.prompts) == 2
    assert not [prompt for prompt in judge.prompts if "mrrag" in prompt]


@query_ways
@pytest.mark.parametrize("resynthesize", [False, True])
async def test_retry_by_guideline(hospital, engine, other, checks, way, resynthesize):
    other.reply = SECOND
    verdicts = iter(['{"passing": false, "feedback": "say more"}', '{"passing": true}'])
    transform = FeedbackQueryTransformation(llm=other, resynthesize_query=resynthesize)
    judge = OtherLLM(reply=lambda _: next(verdicts, '{"passing": true, "feedback": "good"}'))
    retry = RetryGuidelineQueryEngine(
        engine, GuidelineEvaluator(llm=judge), resynthesize, 1, query_transformer=transform
    )
    with query_image(hospital.images[PATIENT]):
        response = await ask(retry, QUESTION, way)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    checks.image(response.source_nodes)


@query_ways
async def test_retry_with_other_sources_passes_a_good_answer_on(engine, checks, way):
    judge = OtherLLM(reply="YES")
    retry = RetrySourceQueryEngine(engine, RelevancyEvaluator(llm=judge), llm=OtherLLM())
    checks.answered(await ask(retry, checks.bundle(), way))


def test_retry_with_other_sources_cannot_lose_the_scores_silently(llm, engine, checks, monkeypatch):
    """Its second try is a new index, asked by `Settings.llm`: it has no tickets."""
    monkeypatch.setattr(Settings, "_llm", llm)
    judge = OtherLLM(reply="NO")
    retry = RetrySourceQueryEngine(engine, RelevancyEvaluator(llm=judge), llm=OtherLLM())
    with pytest.raises(EvidenceError, match="without a ticket"):
        retry.query(checks.bundle())
