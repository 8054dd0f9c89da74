"""Postprocessors that change the text, bring nodes along, or need another package."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.postprocessor import (
    EmbeddingRecencyPostprocessor,
    FixedRecencyPostprocessor,
    KeywordNodePostprocessor,
    MetadataReplacementPostProcessor,
    NERPIINodePostprocessor,
    PIINodePostprocessor,
    PrevNextNodePostprocessor,
    SentenceEmbeddingOptimizer,
    SentenceTransformerRerank,
    TimeWeightedPostprocessor,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import (
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore

from mrrag_llamaindex import MRRAGPostprocessor
from tests.integration.matrix.asking import ask, query_ways
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow


@query_ways
async def test_masked_text_is_what_is_read(hospital, llm, checks, model, way):
    masking = OtherLLM(reply='There is [FINDING]. Output Mapping: {"FINDING": "x"}')
    engine = hospital.index.as_query_engine(
        llm, node_postprocessors=[PIINodePostprocessor(llm=masking)]
    )
    checks.answered(await ask(engine, checks.bundle(), way))
    texts = {document.text for request in model.requests for document in request.documents}
    assert texts == {"There is [FINDING]."}
    assert not [prompt for prompt in masking.prompts if MARKER in prompt]


@query_ways
async def test_named_entities_are_masked_in_what_is_read(
    hospital, llm, checks, model, way, monkeypatch
):
    import transformers

    seen = []

    def entities(text):
        seen.append(text)
        start = text.index("effusion")
        return [{"entity_group": "MISC", "start": start, "word": "effusion"}]

    monkeypatch.setattr(transformers, "pipeline", lambda *_, **__: entities)
    step = NERPIINodePostprocessor()
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    checks.answered(await ask(engine, checks.bundle(), way))
    texts = {document.text for request in model.requests for document in request.documents}
    assert texts == {"There is pleural [MISC_17]. No nodule."}
    assert not [text for text in seen if MARKER in text]


@query_ways
async def test_shortened_text_is_what_is_read(hospital, llm, checks, model, way):
    step = SentenceEmbeddingOptimizer(
        embed_model=MockEmbedding(embed_dim=4),
        percentile_cutoff=0.5,
        context_before=0,
        context_after=0,
        tokenizer_fn=lambda text: [part + "." for part in text.split(".") if part.strip()],
    )
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    checks.answered(await ask(engine, checks.bundle(), way))
    texts = {document.text for request in model.requests for document in request.documents}
    assert {text.strip() for text in texts} in ({"There is pleural effusion."}, {"No nodule."})


def test_text_replaced_from_metadata_is_what_is_read(hospital, llm, checks, model):
    step = MetadataReplacementPostProcessor(target_metadata_key="patient_id")
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    checks.answered(engine.query(checks.bundle()))
    texts = {document.text for request in model.requests for document in request.documents}
    assert texts == {name.split("/")[0] for name in hospital.evidence(PATIENT, QUESTION)}


@query_ways
async def test_neighbours_that_a_step_brings_along_are_unscored(hospital, llm, checks, way):
    """They are pairs of the store, and the postprocessor gives them their scores."""
    names = [*hospital.evidence(PATIENT, QUESTION)]
    pairs = hospital.index.store.get(names)
    nodes = [TextNode(id_=name, text=pairs[name].report) for name in names]
    for before, after in itertools.pairwise(nodes):
        before.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=after.node_id)
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)

    class First(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=nodes[0], score=1.0)]

    step = PrevNextNodePostprocessor(docstore=docstore, num_nodes=5)
    rescore = MRRAGPostprocessor(hospital.index, llm=llm)
    engine = RetrieverQueryEngine.from_args(First(), llm=llm, node_postprocessors=[step, rescore])
    checks.answered(await ask(engine, checks.bundle(), way))


@pytest.mark.parametrize("kind", [FixedRecencyPostprocessor, EmbeddingRecencyPostprocessor])
def test_recency(hospital, llm, checks, kind):
    pytest.importorskip("pandas")

    class Dated(BaseRetriever):
        def _retrieve(self, query_bundle):
            nodes = hospital.index.as_retriever().retrieve(query_bundle)
            for day, item in enumerate(nodes, start=1):
                item.node.metadata["date"] = f"2026-01-0{day}"
                item.node.excluded_llm_metadata_keys.append("date")
            return nodes

    limits = {"top_k": 3} if kind is FixedRecencyPostprocessor else {"similarity_cutoff": 2.0}
    steps = [kind(**limits), MRRAGPostprocessor(hospital.index, llm=llm)]
    engine = RetrieverQueryEngine.from_args(Dated(), llm=llm, node_postprocessors=steps)
    kept = slice(3, 6) if kind is FixedRecencyPostprocessor else slice(0, 6)
    expected = hospital.evidence(PATIENT, QUESTION)[kept]
    checks.answered(engine.query(checks.bundle()), documents=expected)


def test_keywords(hospital, llm, checks):
    pytest.importorskip("spacy")
    step = KeywordNodePostprocessor(required_keywords=["nodule"])
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    names = hospital.evidence(PATIENT, QUESTION)
    pairs = hospital.index.store.get(list(names))
    expected = [name for name in names if "nodule" in pairs[name].report]
    checks.answered(engine.query(checks.bundle()), documents=expected)


def test_cross_encoder(hospital, llm, checks, monkeypatch):
    """The model is a stand-in; what is tested is what it is given and what comes of its scores."""
    seen = []

    def predict(pairs):
        seen.extend(text for _, text in pairs)
        return [float(place) for place in range(len(pairs))]

    encoder = SimpleNamespace(CrossEncoder=lambda *_, **__: SimpleNamespace(predict=predict))
    monkeypatch.setitem(sys.modules, "sentence_transformers", encoder)
    step = SentenceTransformerRerank(model="any", top_n=2, device="cpu")
    engine = hospital.index.as_query_engine(llm, node_postprocessors=[step])
    expected = hospital.evidence(PATIENT, QUESTION)[4:]
    checks.answered(engine.query(checks.bundle()), documents=expected)
    assert len(seen) == 6
    assert not [text for text in seen if MARKER in text or ".png" in text]


def test_metadata_that_a_step_adds_is_shown_as_the_host_shows_it(hospital, checks):
    """Ours is hidden; a key that a step writes afterwards is the application's own affair."""
    step = TimeWeightedPostprocessor(top_k=1, now=5.0)
    (item,) = step.postprocess_nodes(hospital.index.as_retriever().retrieve(checks.bundle()))
    text = item.node.get_content(MetadataMode.LLM)
    assert "__last_accessed__: 5.0" in text
    assert "patient" not in text
