"""Scored nodes: documents that know how they were ranked, and carry their evidence unseen.

A scored node holds its facts in ``metadata["mrrag"]``, the image and question of its retrieval out
of sight, and, once it is stamped, a ticket between whose markers its LLM text stands where
`MRRAGLLaVA` reads it. Nothing of this changes what the node is to others: its text, its hash, and
how it is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.query_image import current_query_image, read_query_image
from mrrag_llamaindex.integration.tickets.markers import mark, strip
from mrrag_llamaindex.integration.tickets.readers import Reading, reading
from mrrag_llamaindex.integration.tickets.registry import TICKETS, Ticket
from mrrag_llamaindex.steering.ifa import min_max_lambdas

if TYPE_CHECKING:
    from mrrag_llamaindex.store.hits import Hit

METADATA_KEY = "mrrag"


@dataclass(frozen=True)
class Evidence:
    """What a retrieval was about: carried by each of its nodes."""

    question: str
    image: QueryImage | None

    def __deepcopy__(self, _: Any) -> Evidence:
        return self


@functools.cache
def _scored_class(base: type[BaseNode]) -> type[BaseNode]:
    """Subclass a node class, so that an ``ImageNode`` stays one for every other reader."""

    class Scored(base):  # type: ignore[misc, valid-type]
        _evidence: Evidence | None = PrivateAttr(None)
        _ticket: Ticket | None = PrivateAttr(None)
        _ordinal: int = PrivateAttr(0)
        _elsewhere: bool = PrivateAttr(False)
        _travelled: bool = PrivateAttr(False)

        @property
        def hash(self) -> str:
            # Hosts know a node by its hash, in fusion for example: not by how it was ranked.
            return str(without_scores(self).hash)

        def get_metadata_str(self, mode: MetadataMode = MetadataMode.ALL) -> str:
            return str(without_scores(self).get_metadata_str(mode))

        def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
            content = str(without_scores(self).get_content(metadata_mode=metadata_mode))
            if metadata_mode != MetadataMode.LLM or self._ticket is None:
                return content
            reader = reading(self._elsewhere)
            if not reader.shown:
                return content
            if reader.packed:
                _require_same_image(self._ticket, reader)
                _note_others(self._ticket, reader)
            TICKETS.hold(self._ticket)
            return mark(strip(content), self._ticket.ticket_id, self._ordinal)

        def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[Any]:
            if self._ticket is None:
                return list(super().get_content_blocks(metadata_mode))
            # Only text: the model takes one image, and it is never a retrieved one.
            return [TextBlock(text=self.get_content(metadata_mode))]

        def __reduce__(self) -> tuple[Any, ...]:
            return _unpickled, (base, self.model_dump(exclude={"class_name"}))

    Scored.__name__ = Scored.__qualname__ = f"Scored{base.__name__}"
    return Scored


def _unpickled(base: type[BaseNode], fields: dict[str, Any]) -> BaseNode:
    node = _scored_class(base)(**fields)
    node._travelled = True  # type: ignore[attr-defined]
    return node


def is_scored(node: BaseNode) -> bool:
    """Whether the node was made here."""
    return hasattr(node, "_travelled")


def without_scores(node: BaseNode) -> BaseNode:
    """Return a plain copy of a scored node, as it was before; any other node as it is."""
    if not is_scored(node):
        return node
    fields = node.model_dump(exclude={"class_name"})
    fields["metadata"].pop(METADATA_KEY, None)
    plain = type(node).__mro__[1](**fields)
    assert isinstance(plain, BaseNode)
    return plain


def scored_node(
    node: BaseNode,
    score: float | None,
    facts: Mapping[str, Any],
    evidence: Evidence | None = None,
) -> NodeWithScore:
    """Return a copy of ``node`` whose ``metadata["mrrag"]`` holds its score and ``facts``.

    Parameters
    ----------
    node : BaseNode
        Not changed.
    score : float or None
        Fused MCR score; None for a node that is kept without one.
    facts : mapping of str to value
        For example the similarity terms. LLM and embedding text hold none of them.
    evidence : Evidence, optional
        Question and image of the retrieval.
    """
    plain = without_scores(node)
    fields = plain.model_dump(exclude={"class_name"})
    fields["metadata"] = {**plain.metadata, METADATA_KEY: {"score": score, **facts}}
    for keys in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
        fields[keys] = list(dict.fromkeys([*fields[keys], METADATA_KEY]))
    scored = _scored_class(type(plain))(**fields)
    scored._evidence = evidence  # type: ignore[attr-defined]
    return NodeWithScore(node=scored, score=score)


def node_of_hit(hit: Hit, evidence: Evidence | None = None) -> NodeWithScore:
    """Return a hit as a scored node whose only LLM text is the report.

    Patient id, study id, image path and the user's metadata stay in ``node.metadata`` for the
    application to read; all of them are excluded from LLM and embedding text.
    """
    own = {
        "patient_id": hit.patient_id,
        "study_id": hit.study_id,
        "image_path": hit.image_path,
        "missing": hit.missing,
    }
    metadata = {**hit.metadata, **{key: value for key, value in own.items() if value is not None}}
    node = TextNode(
        id_=hit.pair_id,
        text=hit.report,
        metadata=metadata,
        excluded_llm_metadata_keys=sorted(metadata),
        excluded_embed_metadata_keys=sorted(metadata),
    )
    return scored_node(node, hit.score, hit.terms, evidence)


def add_ranks(nodes: Sequence[NodeWithScore], facts: Sequence[Mapping[str, Any]]) -> None:
    """Add rank, lambda and further facts to ``metadata["mrrag"]`` of scored nodes, in place.

    Parameters
    ----------
    nodes : sequence of NodeWithScore
        All that one query returns, best first; made by this module.
    facts : sequence of mapping
        One per node.

    Notes
    -----
    ``rank`` counts from 1. ``lambda`` is min-max of the scores over ``nodes``. An LLM call takes
    it anew over the documents that its prompt really holds, see `Answer.lambdas`.
    """
    lambdas = min_max_lambdas([item.score for item in nodes])
    rows = zip(nodes, lambdas, facts, strict=True)
    for rank, (item, lambda_, more) in enumerate(rows, start=1):
        item.node.metadata[METADATA_KEY].update({"rank": rank, "lambda": lambda_, **more})


def evidence_of(nodes: Sequence[NodeWithScore]) -> Evidence | None:
    """Return what the nodes' retrievals were about, None if no node says.

    Raises
    ------
    EvidenceError
        If they were about different images.
    """
    known = [getattr(item.node, "_evidence", None) for item in nodes]
    evidence = [one for one in known if isinstance(one, Evidence)]
    if len({one.image for one in evidence}) > 1:
        raise EvidenceError(
            "these documents were retrieved for different images, which could mix two patients: "
            "ask about one image at a time"
        )
    return evidence[0] if evidence else None


def other_image() -> EvidenceError:
    """Return the error for nodes whose retrieval was about another image than the question."""
    return EvidenceError(
        "these documents were retrieved for another image than the question is about, "
        "which could mix two patients: retrieve them anew"
    )


def _require_same_image(ticket: Ticket, reader: Reading) -> None:
    """Raise `EvidenceError` if documents are packed for a question about another image.

    An application may keep nodes, by the words of their question for example.
    """
    try:
        asked = current_query_image()
    except EvidenceError:
        asked = None  # not known, and what is packed says itself what it is about
    query = reader.query
    if query is not None and query.image_path and ticket.packed_for is not query:
        asked = read_query_image(query, "ignore", ticket.image, asked)
    if asked is not None and asked != ticket.image:
        raise other_image()
    ticket.packed_for = query  # its image is not read again for each document


def _note_others(ticket: Ticket, reader: Reading) -> None:
    """Note which documents of other retrievers are packed beside a ticket's own.

    Their text alone reaches the LLM; what is known here lets each be one document, with its id.
    """
    others = [item.node for item in reader.nodes if ticket_of(item.node) is None]
    texts = {one.get_content(metadata_mode=MetadataMode.LLM).strip(): one.node_id for one in others}
    ticket.beside = texts


def ticket_of(node: BaseNode) -> Ticket | None:
    """Return the ticket of a stamped node, None for any other."""
    ticket = getattr(node, "_ticket", None)
    return ticket if isinstance(ticket, Ticket) else None
