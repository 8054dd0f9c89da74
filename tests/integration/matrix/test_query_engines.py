"""Query engines that rewrite the question, ask several times, or choose whom to ask."""

from __future__ import annotations

import json

import pytest
from llama_index.core import SummaryIndex, VectorStoreIndex
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
from llama_index.core.objects import ObjectIndex
from llama_index.core.query_engine import (
    CitationQueryEngine,
    CustomQueryEngine,
    FLAREInstructQueryEngine,
    MultiStepQueryEngine,
    RetrieverQueryEngine,
    RetrieverRouterQueryEngine,
    RetryGuidelineQueryEngine,
    RetryQueryEngine,
    RetrySourceQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    ToolRetrieverRouterQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import TreeSummarize, get_response_synthesizer
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.selectors import (
    EmbeddingSingleSelector,
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)
from llama_index.core.tools import QueryEngineTool

from mrrag_llamaindex import MRRAGLLaVA, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError, ModelError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import OtherLLM

SECOND = "Is there a nodule?"

ways = pytest.mark.parametrize("way", ["query", "aquery"])


@pytest.fixture
def engine(hospital, llm) -> RetrieverQueryEngine:
    return hospital.index.as_query_engine(llm)


@pytest.fixture
def tools(engine) -> list[QueryEngineTool]:
    return [
        QueryEngineTool.from_defaults(engine, name=name, description=f"asks {name}")
        for name in ("first", "second")
    ]


async def ask(engine, question, way: str):
    return await engine.aquery(question) if way == "aquery" else engine.query(question)


@ways
async def test_retriever_query_engine_put_together_by_hand(hospital, llm, checks, way):
    engine = RetrieverQueryEngine.from_args(hospital.index.as_retriever(llm=llm), llm=llm)
    checks.answered(await ask(engine, checks.bundle(), way))


@ways
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


@ways
async def test_hyde_given_only_a_bundle_says_where_the_image_went(engine, other, checks, way):
    hyde = TransformQueryEngine(engine, HyDEQueryTransform(llm=other))
    with pytest.raises(InputError, match="HyDE"):
        await ask(hyde, checks.bundle(), way)


@ways
async def test_engine_bound_to_an_image_needs_no_block(hospital, llm, other, checks, way):
    other.reply = SECOND
    bound = hospital.index.as_query_engine(llm, image=hospital.images[PATIENT])
    transformed = TransformQueryEngine(bound, DecomposeQueryTransform(llm=other))
    checks.answered(await ask(transformed, checks.bundle(), way), SECOND)


@ways
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


@ways
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
    with query_image(hospital.images[PATIENT]), pytest.raises(EvidenceError, match="join the"):
        engine.query("What is there?")


@ways
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


@ways
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


@ways
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


@ways
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


@ways
async def test_retry_with_other_sources_passes_a_good_answer_on(engine, checks, way):
    judge = OtherLLM(reply="YES")
    retry = RetrySourceQueryEngine(engine, RelevancyEvaluator(llm=judge), llm=OtherLLM())
    checks.answered(await ask(retry, checks.bundle(), way))


def test_retry_with_other_sources_cannot_lose_the_scores_silently(llm, engine, checks, monkeypatch):
    """Its second try is a new index, asked by `Settings.llm`: it has no tickets."""
    from llama_index.core import Settings

    monkeypatch.setattr(Settings, "_llm", llm)
    judge = OtherLLM(reply="NO")
    retry = RetrySourceQueryEngine(engine, RelevancyEvaluator(llm=judge), llm=OtherLLM())
    with pytest.raises(EvidenceError, match="without a ticket"):
        retry.query(checks.bundle())


SINGLE = '[{"choice": 2, "reason": "it fits"}]'
MULTI = '[{"choice": 1, "reason": "one"}, {"choice": 2, "reason": "two"}]'


@ways
@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_router_that_selects_one(tools, other, checks, way, selector):
    picker = OtherLLM(reply=SINGLE)
    router = RouterQueryEngine(selector.from_defaults(llm=picker), tools, llm=other)
    checks.answered(await ask(router, checks.bundle(), way))


def test_router_by_embeddings(tools, other, checks):
    router = RouterQueryEngine(EmbeddingSingleSelector.from_defaults(), tools, llm=other)
    checks.answered(router.query(checks.bundle()))


@ways
async def test_router_that_selects_several_has_a_trace_each(tools, other, checks, way):
    picker = LLMMultiSelector.from_defaults(llm=OtherLLM(reply=MULTI))
    router = RouterQueryEngine(picker, tools, llm=other, summarizer=TreeSummarize(llm=other))
    assert len(checks.answered(await ask(router, checks.bundle(), way))) == 2


@ways
async def test_router_whose_summarizer_is_ours_is_refused(tools, llm, checks, way):
    picker = LLMMultiSelector.from_defaults(llm=OtherLLM(reply=MULTI))
    router = RouterQueryEngine(picker, tools, llm=llm)
    with pytest.raises(EvidenceError, match="join the answers"):
        await ask(router, checks.bundle(), way)


@ways
@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_our_llm_as_a_selector_is_refused(llm, tools, checks, way, selector):
    router = RouterQueryEngine(selector.from_defaults(llm=llm), tools, llm=llm)
    with pytest.raises(EvidenceError, match="give the selector"):
        await ask(router, checks.bundle(), way)


@pytest.mark.parametrize("selector", [PydanticSingleSelector, PydanticMultiSelector])
def test_selectors_that_call_functions_do_not_take_our_llm(llm, selector):
    with pytest.raises((ValueError, ImportError, ModelError)):
        selector.from_defaults(llm=llm)


@ways
async def test_router_over_retrieved_tools(tools, other, checks, way):
    objects = ObjectIndex.from_objects(tools, index_cls=VectorStoreIndex)
    retriever = objects.as_retriever(similarity_top_k=2)
    router = ToolRetrieverRouterQueryEngine(retriever, llm=other)
    assert len(checks.answered(await ask(router, checks.bundle(), way))) == 2


@ways
async def test_router_over_retrieved_nodes(engine, checks, way):
    retriever = SummaryIndex([TextNode(text="ours")]).as_retriever()
    router = RetrieverRouterQueryEngine(retriever, lambda _: engine)
    checks.answered(await ask(router, checks.bundle(), way))


def test_flare_asks_ours_for_what_it_looks_ahead_to(hospital, engine, other, checks):
    replies = iter([f"The film shows [Search({QUESTION})]", "done"])
    other.reply = lambda prompt: next(replies, "done")
    flare = FLAREInstructQueryEngine(engine, llm=other, max_iterations=2)
    with query_image(hospital.images[PATIENT]):
        response = flare.query("What is there?")
    checks.answered(response)


def test_flare_written_by_our_llm_is_refused(hospital, engine, llm):
    flare = FLAREInstructQueryEngine(engine, llm=llm)
    with query_image(hospital.images[PATIENT]), pytest.raises(EvidenceError, match="another LLM"):
        flare.query("What is there?")


class Asks(CustomQueryEngine):
    """A query engine as an app writes it."""

    retriever: object
    llm: MRRAGLLaVA

    def custom_query(self, query_str):
        nodes = self.retriever.retrieve(query_str)
        return get_response_synthesizer(llm=self.llm).synthesize(query_str, nodes)


@ways
async def test_custom_query_engine(hospital, llm, checks, way):
    engine = Asks(retriever=hospital.index.as_retriever(llm=llm), llm=llm)
    with query_image(hospital.images[PATIENT]):
        checks.answered(await ask(engine, QUESTION, way))


@ways
async def test_citations_are_the_pairs(hospital, llm, checks, way):
    engine = hospital.index.as_citation_engine(llm)
    response = await ask(engine, checks.bundle(), way)
    checks.answered(response)
    for number, item in enumerate(response.source_nodes, start=1):
        report = hospital.index.store.get([item.node.node_id])[item.node.node_id].report
        assert item.node.get_content() == f"Source {number}:\n{report}\n"


def test_citations_by_another_llm(hospital, other, checks):
    response = hospital.index.as_citation_engine(other).query(checks.bundle())
    assert "Source 1:" in other.prompts[-1]
    checks.nodes(response.source_nodes)


@pytest.mark.parametrize("stamped", [False, True])
def test_stock_citation_engine_names_the_one_that_works(hospital, llm, checks, stamped):
    retriever = hospital.index.as_retriever(llm=llm) if stamped else None
    engine = CitationQueryEngine.from_args(hospital.index, llm=llm, retriever=retriever)
    with pytest.raises(EvidenceError, match="as_citation_engine"):
        engine.query(checks.bundle())
