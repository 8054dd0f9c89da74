"""Retrievers that combine ours with others, or with questions that an LLM wrote."""

from __future__ import annotations

import pytest
from llama_index.core import StorageContext
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    BaseRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    RouterRetriever,
    TransformRetriever,
)
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import (
    Document,
    IndexNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import RetrieverTool

from mrrag_llamaindex import MRRAGPostprocessor, answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.store.filters import Comparison
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

SECOND = "Is there a nodule?"
THIRD = "Is there edema?"


class Reports(BaseRetriever):
    """Another retriever over the same reports, as BM25 is: its scores are on a scale of its own."""

    def __init__(self, pairs, **options):
        super().__init__(**options)
        self._pairs = pairs

    def _retrieve(self, query_bundle):
        return [
            NodeWithScore(node=TextNode(id_=pair.pair_id, text=pair.report), score=9.0 - place)
            for place, pair in enumerate(self._pairs)
        ]


@pytest.fixture
def others(hospital) -> Reports:
    """The first is one of ours, too; the rest are not."""
    known = hospital.evidence(PATIENT, QUESTION)
    rest = [name for name in hospital.index.store.pair_ids() if name not in known]
    return Reports(list(hospital.index.store.get([known[2], *rest[:3]]).values()))


def run(llm, retriever, question, **options):
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, **options)
    return engine.query(question)


async def arun(llm, retriever, question, **options):
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, **options)
    return await engine.aquery(question)


modes = pytest.mark.parametrize("mode", FUSION_MODES)
use_async = pytest.mark.parametrize("use_async", [False, True])


@modes
@use_async
async def test_fusion_of_generated_questions_keeps_the_image(
    hospital, llm, checks, mode, use_async
):
    writer = OtherLLM(reply=f"{SECOND}\n{THIRD}")
    retriever = QueryFusionRetriever(
        [hospital.index.as_retriever(llm=llm)],
        llm=writer,
        num_queries=3,
        similarity_top_k=6,
        mode=mode,
        use_async=use_async,
    )
    asked = (QUESTION, SECOND, THIRD)
    evidence = [hospital.evidence(PATIENT, question) for question in asked]
    with query_image(hospital.images[PATIENT]):
        response = run(llm, retriever, QUESTION)
        again = await arun(llm, retriever, QUESTION)
    for one in (response, again):
        names = [item.node.node_id for item in one.source_nodes]
        assert len(names) == len(set(names)) == 6
        assert set(names) <= {name for names in evidence for name in names}
        checks.answered(one, documents=names)
        (answer,) = answer_trace(one.source_nodes)
        scores = {n.node.node_id: n.node.metadata["mrrag"]["score"] for n in one.source_nodes}
        assert list(answer.document_ids) == sorted(scores, key=scores.__getitem__, reverse=True)
    if mode == FUSION_MODES.RECIPROCAL_RANK:  # 1 / (rank + 60), added up over the questions
        sums: dict[str, float] = {}
        for ranking in evidence:
            for rank, name in enumerate(ranking):
                sums[name] = sums.get(name, 0.0) + 1 / (rank + 60)
        for item in response.source_nodes:
            assert item.score == pytest.approx(sums[item.node.node_id])


@modes
@use_async
def test_fusion_with_another_retriever_reads_its_reports_unscored(
    hospital, llm, others, checks, mode, use_async
):
    retriever = QueryFusionRetriever(
        [hospital.index.as_retriever(llm=llm, similarity_top_k=2), others],
        llm=OtherLLM(),
        num_queries=1,
        similarity_top_k=6,
        mode=mode,
        use_async=use_async,
    )
    response = run(llm, retriever, checks.bundle())
    (answer,) = answer_trace(response.source_nodes)
    ours = hospital.evidence(PATIENT, QUESTION)[:2]
    assert answer.document_ids[:2] == ours
    assert len(answer.document_ids) == 6
    assert answer.lambdas[ours[0]] == 1.0
    assert not any(answer.lambdas[name] for name in answer.document_ids[2:])
    assert answer.steering.applied
    checks.image([item for item in response.source_nodes if item.node.node_id in ours])


@modes
@use_async
async def test_fusion_rescored_by_the_postprocessor(hospital, llm, others, checks, mode, use_async):
    retriever = QueryFusionRetriever(
        [hospital.index.as_retriever(), others],
        llm=OtherLLM(),
        num_queries=1,
        similarity_top_k=12,
        mode=mode,
        use_async=use_async,
    )
    steps = [MRRAGPostprocessor(hospital.index, llm=llm)]
    checks.answered(run(llm, retriever, checks.bundle(), node_postprocessors=steps))
    checks.answered(await arun(llm, retriever, checks.bundle(), node_postprocessors=steps))


@use_async
def test_errors_pass_through_fusion_unchanged(hospital, use_async):
    retriever = QueryFusionRetriever(
        [hospital.index.as_retriever()], llm=OtherLLM(), num_queries=1, use_async=use_async
    )
    with pytest.raises(InputError, match="has no image"):
        retriever.retrieve(QUESTION)


def test_fusion_of_two_patients_is_refused(hospital, llm):
    one, two = (
        hospital.index.as_retriever(
            llm=llm, image=hospital.images[name], filters=Comparison("patient_id", "==", name)
        )
        for name in (PATIENT, "patient-08")
    )
    retriever = QueryFusionRetriever([one, two], llm=OtherLLM(), num_queries=1, similarity_top_k=6)
    with pytest.raises(EvidenceError, match="two patients"):
        run(llm, retriever, QUESTION)


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
    with pytest.raises(EvidenceError, match="join the answers"):
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


def test_report_that_both_retrievers_bring_is_scored_by_the_postprocessor_alone(
    hospital, llm, checks
):
    """Of two nodes of one id the host keeps the first, which may be the other retriever's."""
    names = hospital.evidence(PATIENT, QUESTION)
    same = Reports(list(hospital.index.store.get(list(reversed(names))).values()))
    retriever = QueryFusionRetriever(
        [hospital.index.as_retriever(llm=llm), same],
        llm=OtherLLM(),
        num_queries=1,
        similarity_top_k=12,
        use_async=False,
    )
    nodes = run(llm, retriever, checks.bundle()).source_nodes
    assert len({item.node.node_id for item in nodes}) == len(nodes)
    assert any("mrrag" not in item.node.metadata for item in nodes)
    step = MRRAGPostprocessor(hospital.index, llm=llm)
    checks.answered(run(llm, retriever, checks.bundle(), node_postprocessors=[step]))
