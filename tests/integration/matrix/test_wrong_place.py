"""`MRRAGLLaVA` where another LLM belongs: the error says which place it is; nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core import DocumentSummaryIndex, KeywordTableIndex, SummaryIndex, TreeIndex
from llama_index.core.evaluation import CorrectnessEvaluator, FaithfulnessEvaluator
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import Document, TextNode
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector

from mrrag_llamaindex.errors import EvidenceError, ModelError, MRRAGError
from mrrag_llamaindex.steering.ifa import IFA
from tests.integration.matrix.asking import Reports, ask, query_ways
from tests.integration.matrix.conftest import QUESTION

REPORT = [Document(text="There is a nodule.")]


@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
@query_ways
async def test_selector(llm, tools, checks, selector, way):
    router = RouterQueryEngine(selector.from_defaults(llm=llm), tools, llm=llm)
    with pytest.raises(EvidenceError, match="prompt of a selector"):
        await ask(router, checks.bundle(), way)


@query_ways
async def test_question_generator(llm, tools, checks, way):
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        llm=llm,
        use_async=False,
        verbose=False,
    )
    with pytest.raises(EvidenceError, match="prompt of a question generator"):
        await ask(engine, checks.bundle(), way)


@query_ways
async def test_reranker(hospital, llm, checks, way):
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[LLMRerank(llm=llm)])
    with pytest.raises(EvidenceError, match="prompt of a reranker"):
        await ask(engine, checks.bundle(), way)


@query_ways
async def test_writer_of_hypothetical_documents(engine, llm, checks, way):
    hyde = TransformQueryEngine(engine, HyDEQueryTransform(llm=llm))
    with pytest.raises(EvidenceError, match="writer of hypothetical documents"):
        await ask(hyde, checks.bundle(), way)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda llm: KeywordTableIndex.from_documents(REPORT, llm=llm), "of an extractor"),
        (lambda llm: TreeIndex.from_documents(REPORT * 12, llm=llm), "of a summarizer"),
        (lambda llm: DocumentSummaryIndex.from_documents(REPORT, llm=llm), "to be summarised"),
    ],
)
def test_index_that_an_llm_builds(llm, build, match):
    with pytest.raises(EvidenceError, match=match):
        build(llm)


@pytest.mark.parametrize(
    ("judge", "match"),
    [(FaithfulnessEvaluator, "without a ticket.*judge"), (CorrectnessEvaluator, "judges")],
)
async def test_judge(llm, judge, match):
    with pytest.raises(EvidenceError, match=match):
        await judge(llm=llm).aevaluate(
            query=QUESTION, response="yes", contexts=["There is a nodule."], reference="yes"
        )


def test_summary_of_answers_or_of_foreign_texts(llm):
    nodes = [TextNode(text="There is a nodule.")]
    engine = SummaryIndex(nodes).as_query_engine(llm=llm, response_mode="tree_summarize")
    with pytest.raises(EvidenceError, match=r"to be summarised.*MRRAGPostprocessor"):
        engine.query(QUESTION)


def test_documents_of_another_retriever_alone(hospital, llm, checks):
    pairs = list(hospital.index.store.get(["patient-03/0"]).values())
    engine = RetrieverQueryEngine.from_args(Reports(pairs), llm=llm)
    with pytest.raises(EvidenceError, match="another retriever brought them"):
        engine.query(checks.bundle())


@dataclass(frozen=True)
class Faulty(IFA):
    """A policy of an app's own with a mistake in it."""

    error: type[Exception] = ValueError

    def __getattribute__(self, name: str) -> Any:
        if name == "needs_image":
            raise object.__getattribute__(self, "error")("a mistake")
        return super().__getattribute__(name)


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, KeyError])
@pytest.mark.parametrize("options", [{}, {"use_async": True, "response_mode": "accumulate"}])
@query_ways
async def test_mistakes_of_an_app_s_policy_are_no_empty_response(
    hospital, llm, checks, error, options, way
):
    """The host answers "Empty Response" for some, and runs the call again for others."""
    faulty = llm.model_copy()
    faulty.policy = Faulty(error=error)
    engine = hospital.index.as_query_engine(faulty, **options)
    with pytest.raises(ModelError, match=error.__name__) as caught:
        await ask(engine, checks.bundle(), way)
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_errors_of_a_stream_reach_whoever_reads_it(hospital, llm, checks, mode):
    faulty = llm.model_copy()
    faulty.policy = Faulty()
    engine = hospital.index.as_query_engine(faulty, response_mode=mode, streaming=True)
    with pytest.raises(MRRAGError, match="ValueError"):
        list(engine.query(checks.bundle()).response_gen)
