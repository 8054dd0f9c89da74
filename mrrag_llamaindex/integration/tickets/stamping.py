"""Stamped nodes: retrieved documents that carry their ticket in LLM text, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode

from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.images.load import ImageSource, image_digest
from mrrag_llamaindex.integration.tickets.markers import mark
from mrrag_llamaindex.integration.tickets.registry import TICKETS, Ticket, TicketRegistry
from mrrag_llamaindex.steering.ifa import min_max_lambdas

if TYPE_CHECKING:
    from mrrag_llamaindex.store.hits import Hit

METADATA_KEY = "mrrag"


@dataclass(frozen=True)
class Evidence:
    """One node with its MCR score, before it is stamped.

    Attributes
    ----------
    node : BaseNode
    score : float or None
        Fused MCR score; None for a node that is kept without one.
    terms : dict of str to float
        ``image_text``, ``image_image``, ``text_text``; empty without a score.
    previous_score : float or None
        The score that an earlier retriever gave.
    """

    node: BaseNode
    score: float | None
    terms: dict[str, float]
    previous_score: float | None = None


@functools.cache
def _stamped_class(base: type[BaseNode]) -> type[BaseNode]:
    """Subclass of a node class whose LLM text stands between ticket markers.

    A subclass keeps the node what it was (an ``ImageNode`` keeps its image) for every reader
    that is not an LLM prompt.
    """

    class Stamped(base):  # type: ignore[misc, valid-type]
        _ticket: Ticket = PrivateAttr()
        _ordinal: int = PrivateAttr()

        def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
            content = str(super().get_content(metadata_mode=metadata_mode))
            if metadata_mode != MetadataMode.LLM:
                return content
            return mark(content, self._ticket.ticket_id, self._ordinal)

        def get_content_blocks(
            self, metadata_mode: MetadataMode = MetadataMode.NONE
        ) -> list[TextBlock]:
            # Only text: the model takes one image, and it is never a retrieved one.
            return [TextBlock(text=self.get_content(metadata_mode))]

    Stamped.__name__ = Stamped.__qualname__ = f"Stamped{base.__name__}"
    return Stamped


def unstamped(node: BaseNode) -> BaseNode:
    """Return ``node``, or the plain copy of a stamped one."""
    base = type(node).__mro__[1]
    if not hasattr(node, "_ticket") or not issubclass(base, BaseNode):
        return node
    plain = base(**node.model_dump(exclude={"class_name"}))
    plain.metadata.pop(METADATA_KEY, None)
    return plain


def ticket_of(node: BaseNode) -> Ticket | None:
    """Return the ticket of a stamped node, None for any other."""
    ticket = getattr(node, "_ticket", None)
    return ticket if isinstance(ticket, Ticket) else None


def stamp(
    evidence: Sequence[Evidence],
    *,
    question: str,
    image: ImageSource | None,
    registry: TicketRegistry = TICKETS,
) -> list[NodeWithScore]:
    """Issue one ticket for the evidence of a query and return its stamped nodes.

    Inputs are not changed. ``metadata["mrrag"]`` of each new node holds score, terms, rank
    (from 1) and lambda, and is excluded from LLM and embedding text.

    Parameters
    ----------
    evidence : sequence of Evidence
        Best first.
    question : str
    image : ImageSource or None
    registry : TicketRegistry

    Returns
    -------
    list of NodeWithScore
        In the order given, with the MCR score.
    """
    relevance = min_max_lambdas([item.score for item in evidence])
    documents = [
        PromptDocument(
            item.node.node_id,
            item.node.get_content(metadata_mode=MetadataMode.LLM),
            item.score,
        )
        for item in evidence
    ]
    digest = None if image is None else image_digest(image)
    ticket = registry.issue(question, documents, image, digest)
    return [
        NodeWithScore(node=_stamped(item, ordinal, ticket, weight), score=item.score)
        for ordinal, (item, weight) in enumerate(zip(evidence, relevance, strict=True))
    ]


def plain_nodes(evidence: Sequence[Evidence]) -> list[NodeWithScore]:
    """Return scored nodes without a ticket, for an LLM that is not ours."""
    relevance = min_max_lambdas([item.score for item in evidence])
    return [
        NodeWithScore(
            node=type(item.node)(**_described_fields(item, rank, weight)), score=item.score
        )
        for rank, (item, weight) in enumerate(zip(evidence, relevance, strict=True), start=1)
    ]


def _described_fields(item: Evidence, rank: int, relevance: float) -> dict[str, Any]:
    """Fields of a copy of the node, with the scores in its metadata, hidden from LLM text."""
    facts: dict[str, Any] = {"score": item.score, **item.terms, "rank": rank, "lambda": relevance}
    if item.previous_score is not None:
        facts["previous_score"] = item.previous_score
    fields = item.node.model_dump(exclude={"class_name"})
    fields["metadata"] = {**item.node.metadata, METADATA_KEY: facts}
    for keys in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
        fields[keys] = [*fields[keys], METADATA_KEY]
    return fields


def _stamped(item: Evidence, ordinal: int, ticket: Ticket, relevance: float) -> BaseNode:
    fields = _described_fields(item, ordinal + 1, relevance)
    node = _stamped_class(type(item.node))(**fields)
    node._ticket = ticket  # type: ignore[attr-defined]
    node._ordinal = ordinal  # type: ignore[attr-defined]
    return node


def evidence_of(hit: Hit) -> Evidence:
    """Turn a hit into a node whose only LLM text is the report.

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
    return Evidence(node, hit.score, hit.terms)


def add_facts(nodes: Sequence[NodeWithScore], facts: Sequence[Mapping[str, Any]]) -> None:
    """Add to what ``metadata["mrrag"]`` says of nodes that were made for this query."""
    for item, more in zip(nodes, facts, strict=True):
        item.node.metadata[METADATA_KEY].update(more)
