"""Apps over other indexes: our postprocessor brings scores and image to what they retrieve."""

from __future__ import annotations

import warnings

import pytest
from llama_index.core import (
    DocumentSummaryIndex,
    MockEmbedding,
    SimpleKeywordTableIndex,
    SummaryIndex,
    TreeIndex,
    VectorStoreIndex,
)
from llama_index.core.chat_engine.multi_modal_condense_plus_context import (
    MultiModalCondensePlusContextChatEngine,
)
from llama_index.core.chat_engine.multi_modal_context import MultiModalContextChatEngine
from llama_index.core.indices.document_summary import (
    DocumentSummaryIndexEmbeddingRetriever,
    DocumentSummaryIndexLLMRetriever,
)
from llama_index.core.indices.empty import EmptyIndex
from llama_index.core.indices.keyword_table.retrievers import (
    KeywordTableGPTRetriever,
    KeywordTableRAKERetriever,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine, SimpleMultiModalQueryEngine
from llama_index.core.retrievers import (
    BaseRetriever,
    EmptyIndexRetriever,
    KeywordTableSimpleRetriever,
    SummaryIndexEmbeddingRetriever,
    SummaryIndexLLMRetriever,
    SummaryIndexRetriever,
    TreeAllLeafRetriever,
    TreeRootRetriever,
    TreeSelectLeafEmbeddingRetriever,
    TreeSelectLeafRetriever,
    VectorIndexAutoRetriever,
    VectorIndexRetriever,
)
from llama_index.core.schema import Document, ImageNode, NodeWithScore, TextNode
from llama_index.core.vector_stores.types import MetadataInfo, VectorStoreInfo

from mrrag_llamaindex import MRRAGIndex, MRRAGPostprocessor, query_image
from mrrag_llamaindex.errors import MRRAGError
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(hospital) -> list[TextNode]:
    names = hospital.evidence(PATIENT, QUESTION)
    pairs = hospital.index.store.get(list(names))
    return [TextNode(id_=name, text=pairs[name].report) for name in names]


def summaries(nodes, other):
    for node in nodes:  # a summary is of a document
        node.relationships = {}
    documents = [Document(id_=node.node_id, text=node.text) for node in nodes]
    return DocumentSummaryIndex.from_documents(
        documents, llm=other, embed_model=MockEmbedding(embed_dim=4), show_progress=False
    )


def chooser(_: str) -> str:
    return "\n".join(f"Doc: {n}, Relevance: 9" for n in range(1, 7))


VECTORS = MockEmbedding(embed_dim=4)
INFO = VectorStoreInfo(
    content_info="reports", metadata_info=[MetadataInfo(name="n", type="str", description="d")]
)
RETRIEVERS = {
    VectorIndexRetriever: lambda nodes, _: VectorStoreIndex(
        nodes, embed_model=VECTORS
    ).as_retriever(similarity_top_k=6),
    VectorIndexAutoRetriever: lambda nodes, _: VectorIndexAutoRetriever(
        VectorStoreIndex(nodes, embed_model=VECTORS),
        vector_store_info=INFO,
        llm=OtherLLM(reply='{"query": "effusion", "filters": [], "top_k": 6}'),
        similarity_top_k=6,
    ),
    SummaryIndexRetriever: lambda nodes, _: SummaryIndex(nodes).as_retriever(),
    SummaryIndexEmbeddingRetriever: lambda nodes, _: SummaryIndexEmbeddingRetriever(
        SummaryIndex(nodes), embed_model=VECTORS, similarity_top_k=6
    ),
    SummaryIndexLLMRetriever: lambda nodes, _: SummaryIndexLLMRetriever(
        SummaryIndex(nodes), llm=OtherLLM(reply=chooser)
    ),
    KeywordTableSimpleRetriever: lambda nodes, _: KeywordTableSimpleRetriever(
        SimpleKeywordTableIndex(nodes, llm=OtherLLM())
    ),
    KeywordTableRAKERetriever: lambda nodes, _: KeywordTableRAKERetriever(
        SimpleKeywordTableIndex(nodes, llm=OtherLLM())
    ),
    KeywordTableGPTRetriever: lambda nodes, _: KeywordTableGPTRetriever(
        SimpleKeywordTableIndex(nodes, llm=OtherLLM()),
        llm=OtherLLM(reply="KEYWORDS: pleural, effusion"),
    ),
    TreeAllLeafRetriever: lambda nodes, _: TreeAllLeafRetriever(
        TreeIndex(nodes, llm=OtherLLM(), build_tree=False)
    ),
    DocumentSummaryIndexEmbeddingRetriever: lambda nodes, other: (
        DocumentSummaryIndexEmbeddingRetriever(
            summaries(nodes, other), embed_model=VECTORS, similarity_top_k=6
        )
    ),
    DocumentSummaryIndexLLMRetriever: lambda nodes, other: DocumentSummaryIndexLLMRetriever(
        summaries(nodes, other), llm=OtherLLM(reply=chooser), choice_top_k=6
    ),
}
SUMMARIZED = {
    TreeRootRetriever: lambda index: TreeRootRetriever(index),
    TreeSelectLeafRetriever: lambda index: TreeSelectLeafRetriever(index),
    TreeSelectLeafEmbeddingRetriever: lambda index: TreeSelectLeafEmbeddingRetriever(
        index, embed_model=VECTORS
    ),
}


@pytest.mark.parametrize("kind", RETRIEVERS)
def test_reports_of_another_retriever(hospital, llm, other, checks, nodes, kind):
    if kind is KeywordTableRAKERetriever:
        pytest.importorskip("rake_nltk")
    retriever = RETRIEVERS[kind](nodes, other)
    step = MRRAGPostprocessor(hospital.index, llm=llm)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=[step])
    response = engine.query(checks.bundle())
    if "Summary" in kind.__name__ and "Document" in kind.__name__:
        # Its nodes are pieces, which belong to the pair of their document.
        assert {item.node.ref_doc_id for item in response.source_nodes} == {
            node.node_id for node in nodes
        }
        checks.image(response.source_nodes)
        return
    checks.answered(response)


@pytest.mark.parametrize("kind", SUMMARIZED)
def test_summaries_of_a_tree_are_scored_as_texts_of_their_own(hospital, llm, checks, nodes, kind):
    """Its nodes are another LLM's summaries, or leaves that this LLM chose."""
    chosen = OtherLLM(reply="ANSWER: 1")
    index = TreeIndex(nodes, llm=chosen, num_children=3)
    step = MRRAGPostprocessor(hospital.index, llm=llm)
    engine = RetrieverQueryEngine.from_args(
        SUMMARIZED[kind](index), llm=llm, node_postprocessors=[step]
    )
    response = engine.query(checks.bundle())
    assert all(item.node.metadata["mrrag"]["score"] for item in response.source_nodes)
    checks.image(response.source_nodes)
    assert not [prompt for prompt in chosen.prompts if MARKER in prompt]


def test_empty_index_gives_the_host_s_empty_response(hospital, llm, checks):
    """Nothing was retrieved, so our LLM is never called: the words are the host's."""
    retriever = EmptyIndex().as_retriever()
    assert isinstance(retriever, EmptyIndexRetriever)
    step = MRRAGPostprocessor(hospital.index, llm=llm)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, node_postprocessors=[step])
    assert str(engine.query(checks.bundle())) == "Empty Response"


def test_pipeline_that_cuts_documents_does_not_cut_reports(hospital, towers):
    """A pair is an image with its whole report."""
    path = hospital.images[PATIENT]
    document = Document(id_="new", text="There is edema. " * 60, metadata={"image_path": path})
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0)])
    pieces = pipeline.run(documents=[document])
    assert len(pieces) > 1
    index = MRRAGIndex.from_documents([document], towers=towers)
    assert list(index.store.pair_ids()) == ["new"]
    with pytest.raises(MRRAGError, match="insert the document"):
        index.insert_nodes(pieces)


class Films(BaseRetriever):
    """A retriever of images, as a multimodal index has one."""

    def __init__(self, hospital):
        super().__init__()
        self._path = hospital.images["patient-08"]

    def _retrieve(self, query_bundle):
        node = ImageNode(text="There is a nodule.", image_path=self._path)
        return [NodeWithScore(node=node, score=1.0)]


def multimodal(kind, retriever, llm, template=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if kind is SimpleMultiModalQueryEngine:
            own = None if template is None else PromptTemplate(template)
            return kind(retriever, multi_modal_llm=llm, text_qa_template=own).query
        name = "context_template" if kind is MultiModalContextChatEngine else "context_prompt"
        options = {} if template is None else {name: template}
        return kind.from_defaults(retriever=retriever, multi_modal_llm=llm, **options).chat


kinds = pytest.mark.parametrize(
    "kind",
    [
        SimpleMultiModalQueryEngine,
        MultiModalContextChatEngine,
        MultiModalCondensePlusContextChatEngine,
    ],
)


@kinds
def test_multimodal_engine_over_our_retriever(hospital, llm, checks, kind):
    ask = multimodal(kind, hospital.index.as_retriever(llm=llm), llm)
    with query_image(hospital.images[PATIENT]):
        checks.answered(ask(QUESTION))


@kinds
@pytest.mark.parametrize("template", [None, "Befunde: {context_str}\nFrage: {query_str}\n"])
def test_retrieved_image_is_never_the_image_of_the_question(hospital, llm, model, kind, template):
    ask = multimodal(kind, Films(hospital), llm, template)
    with query_image(hospital.images[PATIENT]), pytest.raises(MRRAGError):
        ask(QUESTION)
    assert model.images == []


@pytest.mark.xfail(
    strict=True,
    reason="outside query_image, a retrieved image in a message of an own template cannot be told "
    "from one that a person sent; docs/llamaindex.md says so",
)
@kinds
def test_retrieved_image_is_not_taken_for_a_person_s_without_a_block(hospital, llm, model, kind):
    ask = multimodal(kind, Films(hospital), llm, "Befunde: {context_str}\nFrage: {query_str}\n")
    with pytest.raises(MRRAGError):
        ask(QUESTION)
