"""Postprocessors that select and reorder, between our retriever and our LLM."""

from __future__ import annotations

import json

import pytest
from llama_index.core.postprocessor import (
    AutoPrevNextNodePostprocessor,
    LLMRerank,
    LongContextReorder,
    MetadataReplacementPostProcessor,
    PrevNextNodePostprocessor,
    SimilarityPostprocessor,
    StructuredLLMRerank,
    TimeWeightedPostprocessor,
)
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.storage.docstore import SimpleDocumentStore

from mrrag_llamaindex import MRRAGPostprocessor, answer_trace
from mrrag_llamaindex.errors import EvidenceError, InputError
from tests.integration.matrix.asking import ask, query_ways
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow


def structured(prompt: str) -> str:
    documents = [{"document_number": 2, "relevance": 9}, {"document_number": 1, "relevance": 8}]
    return json.dumps({"documents": documents})


STEPS = {
    "similarity": (lambda: SimilarityPostprocessor(similarity_cutoff=-100.0), range(6)),
    "long context": (LongContextReorder, range(6)),
    "time": (lambda: TimeWeightedPostprocessor(top_k=3), range(3)),
    "previous and next": (
        lambda: PrevNextNodePostprocessor(docstore=SimpleDocumentStore(), mode="both"),
        range(6),
    ),
    "inferred previous and next": (
        lambda: AutoPrevNextNodePostprocessor(
            docstore=SimpleDocumentStore(), llm=OtherLLM(reply="NONE")
        ),
        range(6),
    ),
    "metadata": (lambda: MetadataReplacementPostProcessor(target_metadata_key="none"), range(6)),
    "llm rerank": (
        lambda: LLMRerank(llm=OtherLLM(reply="Doc: 2, Relevance: 9\nDoc: 1, Relevance: 8")),
        range(2),
    ),
    "structured rerank": (lambda: StructuredLLMRerank(llm=OtherLLM(reply=structured)), range(2)),
    "rankgpt": (lambda: RankGPTRerank(llm=OtherLLM(reply="[2] > [1] > [3]"), top_n=2), range(2)),
}


@query_ways
@pytest.mark.parametrize("name", STEPS)
async def test_step_keeps_scores_image_and_steering(hospital, llm, checks, name, way):
    make, kept = STEPS[name]
    step = make()
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    expected = [hospital.evidence(PATIENT, QUESTION)[place] for place in kept]
    checks.answered(await ask(engine, checks.bundle(), way), documents=expected)
    reader = getattr(step, "llm", None)
    if reader is not None:
        assert reader.prompts
        assert not [prompt for prompt in reader.prompts if MARKER in prompt]


@pytest.mark.slow
@query_ways
@pytest.mark.parametrize("name", STEPS)
async def test_step_after_our_postprocessor_in_an_engine_of_ones_own(
    hospital, llm, checks, name, way
):
    """Without an ``llm=`` the nodes carry no ticket, and a step behind it reads plain text."""
    make, kept = STEPS[name]
    retriever = hospital.index.as_retriever(similarity_top_k=6)
    index = hospital.index
    steps = [MRRAGPostprocessor(index), make(), MRRAGPostprocessor(index, llm=llm)]
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=steps)
    expected = [hospital.evidence(PATIENT, QUESTION)[place] for place in kept]
    checks.answered(await ask(engine, checks.bundle(), way), documents=expected)


def test_cutoff_keeps_the_best(hospital, llm, checks):
    third = hospital.index.as_retriever().retrieve(checks.bundle())[2]
    step = SimilarityPostprocessor(similarity_cutoff=third.score)
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    expected = hospital.evidence(PATIENT, QUESTION)[:3]
    checks.answered(engine.query(checks.bundle()), documents=expected)


def test_cutoff_that_keeps_nothing_is_an_error(hospital, llm, checks):
    step = SimilarityPostprocessor(similarity_cutoff=100.0)
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    with pytest.raises(EvidenceError, match="no documents are left"):
        engine.query(checks.bundle())


@query_ways
async def test_reranked_order_is_shown_and_mcr_scores_steer(hospital, llm, checks, way):
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[STEPS["llm rerank"][0]()])
    response = await ask(engine, checks.bundle(), way)
    first, second = hospital.evidence(PATIENT, QUESTION)[:2]
    assert [item.node.node_id for item in response.source_nodes] == [second, first]
    assert [item.score for item in response.source_nodes] == [9.0, 8.0]
    (answer,) = answer_trace(response.source_nodes)
    assert answer.lambdas == {first: 1.0, second: 0.0}


@query_ways
@pytest.mark.parametrize("kind", [LLMRerank, StructuredLLMRerank, RankGPTRerank])
async def test_our_llm_as_a_reranker_is_refused(hospital, llm, checks, way, kind):
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[kind(llm=llm)])
    with pytest.raises((EvidenceError, InputError), match=r"another LLM|cannot be filled"):
        await ask(engine, checks.bundle(), way)
