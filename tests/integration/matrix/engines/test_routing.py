"""Query engines that choose whom to ask, and those that an app writes or that cite."""

from __future__ import annotations

import pytest
from llama_index.core import SummaryIndex, VectorStoreIndex
from llama_index.core.objects import ObjectIndex
from llama_index.core.query_engine import (
    CitationQueryEngine,
    CustomQueryEngine,
    FLAREInstructQueryEngine,
    RetrieverQueryEngine,
    RetrieverRouterQueryEngine,
    RouterQueryEngine,
    ToolRetrieverRouterQueryEngine,
)
from llama_index.core.response_synthesizers import TreeSummarize, get_response_synthesizer
from llama_index.core.schema import TextNode
from llama_index.core.selectors import (
    EmbeddingSingleSelector,
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)

from mrrag_llamaindex import MRRAGLLaVA, query_image
from mrrag_llamaindex.errors import EvidenceError, ModelError
from tests.integration.matrix.asking import ask, query_ways
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import OtherLLM

pytestmark = pytest.mark.slow


@query_ways
async def test_retriever_query_engine_put_together_by_hand(hospital, llm, checks, way):
    engine = RetrieverQueryEngine.from_args(hospital.index.as_retriever(llm=llm), llm=llm)
    checks.answered(await ask(engine, checks.bundle(), way))


SINGLE = '[{"choice": 2, "reason": "it fits"}]'


MULTI = '[{"choice": 1, "reason": "one"}, {"choice": 2, "reason": "two"}]'


@query_ways
@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_router_that_selects_one(tools, other, checks, way, selector):
    picker = OtherLLM(reply=SINGLE)
    router = RouterQueryEngine(selector.from_defaults(llm=picker), tools, llm=other)
    checks.answered(await ask(router, checks.bundle(), way))


def test_router_by_embeddings(tools, other, checks):
    router = RouterQueryEngine(EmbeddingSingleSelector.from_defaults(), tools, llm=other)
    checks.answered(router.query(checks.bundle()))


@query_ways
async def test_router_that_selects_several_has_a_trace_each(tools, other, checks, way):
    picker = LLMMultiSelector.from_defaults(llm=OtherLLM(reply=MULTI))
    router = RouterQueryEngine(picker, tools, llm=other, summarizer=TreeSummarize(llm=other))
    assert len(checks.answered(await ask(router, checks.bundle(), way))) == 2


@query_ways
async def test_router_whose_summarizer_is_ours_is_refused(tools, llm, checks, way):
    picker = LLMMultiSelector.from_defaults(llm=OtherLLM(reply=MULTI))
    router = RouterQueryEngine(picker, tools, llm=llm)
    with pytest.raises(EvidenceError, match="join the answers"):
        await ask(router, checks.bundle(), way)


@query_ways
@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_our_llm_as_a_selector_is_refused(llm, tools, checks, way, selector):
    router = RouterQueryEngine(selector.from_defaults(llm=llm), tools, llm=llm)
    with pytest.raises(EvidenceError, match="give the selector"):
        await ask(router, checks.bundle(), way)


@pytest.mark.parametrize("selector", [PydanticSingleSelector, PydanticMultiSelector])
def test_selectors_that_call_functions_do_not_take_our_llm(llm, selector):
    with pytest.raises((ValueError, ImportError, ModelError)):
        selector.from_defaults(llm=llm)


@query_ways
async def test_router_over_retrieved_tools(tools, other, checks, way):
    objects = ObjectIndex.from_objects(tools, index_cls=VectorStoreIndex)
    retriever = objects.as_retriever(similarity_top_k=2)
    router = ToolRetrieverRouterQueryEngine(retriever, llm=other)
    assert len(checks.answered(await ask(router, checks.bundle(), way))) == 2


@query_ways
async def test_router_over_retrieved_nodes(engine, checks, way):
    retriever = SummaryIndex([TextNode(text="ours")]).as_retriever()
    router = RetrieverRouterQueryEngine(retriever, lambda _: engine)
    checks.answered(await ask(router, checks.bundle(), way))


class Asks(CustomQueryEngine):
    """A query engine as an app writes it."""

    retriever: object
    llm: MRRAGLLaVA

    def custom_query(self, query_str):
        nodes = self.retriever.retrieve(query_str)
        return get_response_synthesizer(llm=self.llm).synthesize(query_str, nodes)


@query_ways
async def test_custom_query_engine(hospital, llm, checks, way):
    engine = Asks(retriever=hospital.index.as_retriever(llm=llm), llm=llm)
    with query_image(hospital.images[PATIENT]):
        checks.answered(await ask(engine, QUESTION, way))


@query_ways
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
    with pytest.raises(EvidenceError, match=r"stock CitationQueryEngine.*as_citation_engine"):
        engine.query(checks.bundle())


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
