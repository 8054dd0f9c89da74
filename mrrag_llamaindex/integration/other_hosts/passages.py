"""Documents of any host: retrieved, rescored and put under a ticket as LlamaIndex's nodes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.nodes import (
    METADATA_KEY,
    Evidence,
    evidence_of,
    scored_node,
    without_scores,
)
from mrrag_llamaindex.integration.tickets.stamps import stamp

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.integration.postprocessor import MRRAGPostprocessor
    from mrrag_llamaindex.integration.retriever import MRRAGRetriever


class Facts(dict[str, Any]):
    """How a document was ranked, and, unseen, which one it is and what its retrieval was about.

    It stands in the metadata of a host's document as a mapping like any other. Hosts that write a
    document anew hand its metadata on, and what is unseen goes with it, within this process.

    Attributes
    ----------
    document_id : str
        Empty where it is not known.
    evidence : Evidence or None
    """

    document_id: str = ""
    evidence: Evidence | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], document_id: str, evidence: Evidence | None) -> Facts:
        """Return facts that know their document and its retrieval."""
        ranking = cls(facts)
        ranking.document_id, ranking.evidence = document_id, evidence
        return ranking

    def __eq__(self, other: object) -> bool:
        """Whether it is the same document, retrieved for the same image.

        Hosts compare documents to leave out what was found twice. How one was ranked is no part of
        what it is: another question ranks it otherwise.
        """
        if not isinstance(other, Facts) or not (self.document_id and other.document_id):
            return super().__eq__(other)
        images = [one.evidence and one.evidence.image for one in (self, other)]
        return self.document_id == other.document_id and images[0] == images[1]

    __hash__ = None

    def __copy__(self) -> Facts:
        return Facts.of(self, self.document_id, self.evidence)

    def __deepcopy__(self, _: Any) -> Facts:
        return self.__copy__()  # the values are numbers, and mappings that nobody changes

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # image and question stay in the process that retrieved


@dataclass(frozen=True)
class Passage:
    """One document, as any host can hold it.

    Attributes
    ----------
    document_id : str
        The pair's id; of another source's document its own.
    text : str
        Without markers.
    metadata : mapping
        The application's.
    facts : Facts
        Empty for a document that was not retrieved or rescored here.
    """

    document_id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)


def retrieve(retriever: MRRAGRetriever, question: str, image: QueryImage | None) -> list[Passage]:
    """Return the documents for a question about ``image``, best first.

    Raises
    ------
    MRRAGError
        As the retriever does in LlamaIndex.
    """
    return [_passage(item) for item in retriever.nodes_about(question, image)]


def rescore(
    postprocessor: MRRAGPostprocessor,
    passages: Sequence[Passage],
    question: str,
    image: QueryImage | None,
) -> list[Passage]:
    """Rank any retriever's documents by the fused score; see `MRRAGPostprocessor`.

    Raises
    ------
    EvidenceError
        If they were retrieved for another image, or for several.
    MRRAGError
        As the postprocessor does in LlamaIndex.
    """
    nodes = [_node(passage) for passage in passages]
    return [_passage(item) for item in postprocessor.about(nodes, QueryBundle(question), image)]


def common_evidence(passages: Sequence[Passage]) -> Evidence | None:
    """Return what the documents were retrieved for, None if none of them says.

    Raises
    ------
    EvidenceError
        If that were different images, or a document's ranking is known and its image is not.
    """
    for passage in passages:
        if passage.facts and passage.facts.evidence is None:
            raise EvidenceError(
                f"document {passage.document_id!r} has a score, and it is not known for which "
                "image: it was pickled, sent as JSON or copied field by field, and image and "
                "question stay in the process that retrieved. Retrieve and answer in one process, "
                "or have the documents ranked anew for the image"
            )
    return evidence_of([_node(passage) for passage in passages])


def under_ticket(passages: Sequence[Passage], question: str, image: QueryImage | None) -> list[str]:
    """Issue one ticket for all documents of a question, and return their texts with its markers."""
    nodes = [_node(passage) for passage in passages]
    stamped = stamp(nodes, question, image, elsewhere=True)
    return [item.node.get_content(metadata_mode=MetadataMode.LLM) for item in stamped]


def _node(passage: Passage) -> NodeWithScore:
    keys = sorted(passage.metadata)
    node = TextNode(
        id_=passage.document_id,
        text=strip(passage.text),
        metadata=dict(passage.metadata),
        excluded_llm_metadata_keys=keys,
        excluded_embed_metadata_keys=keys,
    )
    if not passage.facts:
        return NodeWithScore(node=node)
    return scored_node(node, passage.facts.get("score"), passage.facts, passage.facts.evidence)


def _passage(item: NodeWithScore) -> Passage:
    plain = without_scores(item.node)
    evidence = evidence_of([item])
    return Passage(
        plain.node_id,
        plain.get_content(metadata_mode=MetadataMode.NONE),
        plain.metadata,
        Facts.of(item.node.metadata[METADATA_KEY], plain.node_id, evidence),
    )
