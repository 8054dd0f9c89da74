"""Retrievers that choose, follow or merge what others retrieve."""

from __future__ import annotations

import pytest
from llama_index.core import StorageContext
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    BaseRetriever,
    RecursiveRetriever,
    RouterRetriever,
    TransformRetriever,
)
from llama_index.core.schema import (
    Document,
    IndexNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
)
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import RetrieverTool

from mrrag_llamaindex import MRRAGPostprocessor, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError
from tests.integration.matrix.asking import Reports
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM


def run(llm, retriever, question, **options):
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, **options)
    return engine.query(question)


async def arun(llm, retriever, question, **options):
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, **options)
    return await engine.aquery(question)


@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_router_of_retrievers(hospital, llm, checks, selector):
    picker = selector.from_defaults(llm=OtherLLM(reply='[{"choice": 1, "reason": "it fits"}]'))
    ours = RetrieverTool.from_defaults(hospital.index.as_retriever(llm=llm), description="pairs")
    second = RetrieverTool.from_defaults(Reports([]), description="other reports")
    retriever = RouterRetriever(picker, [ours, second], llm=OtherLLM())
    checks.answered(run(llm, retriever, checks.bundle()))
    checks.answered(await arun(llm, retriever, checks.bundle()))


def test_router_of_our_retrievers_with_two_tickets(hospital, llm, checks):
    reply = '[{"choice": 1, "reason": "one"}, {"choice": 2, "reason": "two"}]'
    picker = LLMMultiSelector.from_defaults(llm=OtherLLM(reply=reply))
    tools = [
        RetrieverTool.from_defaults(hospital.index.as_retriever(llm=llm, **options), description=d)
        for d, options in {"all": {}, "few": {"similarity_top_k": 2}}.items()
    ]
    retriever = RouterRetriever(picker, tools, llm=OtherLLM())
    checks.answered(run(llm, retriever, checks.bundle()))


async def test_recursive_retriever(hospital, llm, checks):
    """Its root names ours; `IndexNode` objects lead to it."""

    class Root(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=IndexNode(text="films", index_id="films"), score=1.0)]

    ours = hospital.index.as_retriever(llm=llm)
    retriever = RecursiveRetriever("root", retriever_dict={"root": Root(), "films": ours})
    checks.answered(run(llm, retriever, checks.bundle()))
    checks.answered(await arun(llm, retriever, checks.bundle()))


def test_recursive_retriever_over_our_engine_reads_its_answer(hospital, llm, other, checks):
    """A query engine's answer becomes a node: for another LLM, and with the sources beside it."""

    class Root(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=IndexNode(text="films", index_id="films"), score=1.0)]

    engine = hospital.index.as_query_engine(llm)
    retriever = RecursiveRetriever(
        "root", retriever_dict={"root": Root()}, query_engine_dict={"films": engine}
    )
    response = run(other, retriever, checks.bundle())
    assert str(response) == "yes"
    assert MARKER not in other.prompts[-1]
    with pytest.raises(EvidenceError, match="answers to other questions"):
        run(llm, retriever, checks.bundle())


async def test_auto_merging_retriever_over_ours(hospital, llm, checks):
    retriever = AutoMergingRetriever(
        hospital.index.as_retriever(llm=llm), StorageContext.from_defaults(), simple_ratio_thresh=0
    )
    checks.answered(run(llm, retriever, checks.bundle()))
    checks.answered(await arun(llm, retriever, checks.bundle()))


def test_merged_parents_are_scored_by_the_postprocessor(hospital, llm, checks):
    """Parts of a report become the whole one again, which is a pair under its document's id."""
    names = hospital.evidence(PATIENT, QUESTION)
    pairs = hospital.index.store.get(list(names))
    documents = [Document(id_=name, text=pair.report * 8) for name, pair in pairs.items()]
    nodes = HierarchicalNodeParser.from_defaults(
        chunk_sizes=[512, 64], chunk_overlap=0
    ).get_nodes_from_documents(documents)
    context = StorageContext.from_defaults()
    context.docstore.add_documents(nodes)

    class Leaves(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=node, score=1.0) for node in get_leaf_nodes(nodes)]

    retriever = AutoMergingRetriever(Leaves(), context)
    step = MRRAGPostprocessor(hospital.index, llm=llm)
    response = run(llm, retriever, checks.bundle(), node_postprocessors=[step])
    assert {item.node.ref_doc_id for item in response.source_nodes} == set(names)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.steering.applied
    checks.image(response.source_nodes)


async def test_transform_retriever(hospital, llm, other, checks):
    other.reply = "There is a fracture."
    retriever = TransformRetriever(
        hospital.index.as_retriever(llm=llm), HyDEQueryTransform(llm=other)
    )
    with query_image(hospital.images[PATIENT]):
        response = run(llm, retriever, QUESTION)
        again = await arun(llm, retriever, QUESTION)
    texts = [other.reply, QUESTION]
    bundle = QueryBundle(QUESTION, hospital.images[PATIENT], custom_embedding_strs=texts)
    expected = [item.score for item in hospital.index.as_retriever().retrieve(bundle)]
    for one in (response, again):
        assert [item.node.metadata["mrrag"]["score"] for item in one.source_nodes] == expected
        assert answer_trace(one.source_nodes)[0].steering.applied
        checks.image(one.source_nodes)


async def test_retriever_as_a_tool(hospital, checks):
    tool = RetrieverTool.from_defaults(
        hospital.index.as_retriever(), node_postprocessors=[MRRAGPostprocessor(hospital.index)]
    )
    with query_image(hospital.images[PATIENT]):
        outputs = [tool.call(QUESTION), await tool.acall(QUESTION)]
    for output in outputs:
        checks.nodes(output.raw_output)
        assert MARKER not in output.content
        assert ".png" not in output.content
        shown = output.raw_output[0].node.get_content(MetadataMode.LLM)
        assert shown in output.content
