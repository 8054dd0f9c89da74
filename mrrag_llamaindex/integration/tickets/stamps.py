"""Put a ticket on the nodes of a question, and take it off again."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.nodes import (
    METADATA_KEY,
    is_scored,
    scored_node,
    ticket_of,
)
from mrrag_llamaindex.integration.tickets.registry import TICKETS


def stamp(
    nodes: Sequence[NodeWithScore],
    question: str,
    image: QueryImage | None,
    *,
    withheld: Sequence[NodeWithScore] = (),
    elsewhere: bool = False,
) -> list[NodeWithScore]:
    """Draw one ticket for all nodes of a query and return copies that carry it.

    Parameters
    ----------
    nodes : sequence of NodeWithScore
        In the order in which they are shown; not changed. Those that were not scored here are
        documents of their own, without a score.
    question : str
    image : QueryImage or None
    withheld : sequence of NodeWithScore
        Documents of the query that are not shown; answers name them as dropped.
    elsewhere : bool
        Whether the markers also stand in what an application's own code reads; else only engines
        and synthesizers of `MRRAGLLaVA` see them.

    Notes
    -----
    A node's score is that in its ``metadata["mrrag"]``: a reranker or a fusion of retrievers that
    came between may have put another into ``NodeWithScore.score``, on another scale.
    """
    scored = [item if is_scored(item.node) else scored_node(item.node, None, {}) for item in nodes]
    copies = [_unstamped(item.node) for item in scored]
    documents = [
        PromptDocument(
            copy.node_id,
            strip(copy.get_content(metadata_mode=MetadataMode.LLM)),
            # Whatever was pickled may have been scored for another question.
            None if copy._travelled else copy.metadata[METADATA_KEY].get("score"),  # type: ignore[attr-defined]
        )
        for copy in copies
    ]
    unread = [PromptDocument(item.node.node_id, "", item.score) for item in withheld]
    ticket = TICKETS.draw(question, documents, image, unread)
    for ordinal, copy in enumerate(copies):
        copy._ticket, copy._ordinal = ticket, ordinal  # type: ignore[attr-defined]
        copy._elsewhere = elsewhere  # type: ignore[attr-defined]
    return [
        NodeWithScore(node=copy, score=item.score) for copy, item in zip(copies, nodes, strict=True)
    ]


def unstamp(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """Return the nodes, with copies without a ticket in place of those that carry one."""
    return [
        item
        if ticket_of(item.node) is None
        else NodeWithScore(node=_unstamped(item.node), score=item.score)
        for item in nodes
    ]


def numbered(item: NodeWithScore, text: str) -> NodeWithScore:
    """Return a copy of a node, with all that is known of it, under another text."""
    scored = item if is_scored(item.node) else scored_node(item.node, None, {})
    copy = _unstamped(scored.node)
    copy.set_content(text)
    return NodeWithScore(node=copy, score=item.score)


def _unstamped(node: BaseNode) -> BaseNode:
    """Copy a scored node without its ticket, with metadata of its own."""
    facts = node.metadata[METADATA_KEY]
    copy = node.model_copy(update={"metadata": {**node.metadata, METADATA_KEY: {**facts}}})
    copy._ticket = None  # type: ignore[attr-defined]
    return copy
