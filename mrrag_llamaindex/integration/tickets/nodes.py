"""Ticketed nodes: documents that carry their ticket in LLM text, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.integration.tickets.markers import mark
from mrrag_llamaindex.integration.tickets.registry import TICKETS, Ticket, TicketRegistry
from mrrag_llamaindex.integration.tickets.scored_nodes import METADATA_KEY

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage


@functools.cache
def _ticketed_class(base: type[BaseNode]) -> type[BaseNode]:
    """Subclass of a node class whose LLM text stands between ticket markers.

    A subclass keeps the node what it was (an ``ImageNode`` keeps its image) for every reader
    that is not an LLM prompt.
    """

    class Ticketed(base):  # type: ignore[misc, valid-type]
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

    Ticketed.__name__ = Ticketed.__qualname__ = f"Ticketed{base.__name__}"
    return Ticketed


def ticket_of(node: BaseNode) -> Ticket | None:
    """Return the ticket of a ticketed node, None for any other."""
    ticket = getattr(node, "_ticket", None)
    return ticket if isinstance(ticket, Ticket) else None


def without_ticket(node: BaseNode) -> BaseNode:
    """Return ``node``, or the plain copy of a ticketed one, without what was scored before."""
    if ticket_of(node) is None:
        return node
    plain = type(node).__mro__[1](**node.model_dump(exclude={"class_name"}))
    assert isinstance(plain, BaseNode)
    plain.metadata.pop(METADATA_KEY, None)
    return plain


def with_ticket(
    nodes: Sequence[NodeWithScore],
    *,
    question: str,
    image: QueryImage | None,
    registry: TicketRegistry = TICKETS,
) -> list[NodeWithScore]:
    """Issue one ticket for the nodes of a query and return copies that carry it.

    Parameters
    ----------
    nodes : sequence of NodeWithScore
        Best first; not changed.
    question : str
    image : QueryImage or None
    registry : TicketRegistry
    """
    documents = [
        PromptDocument(
            item.node.node_id, item.node.get_content(metadata_mode=MetadataMode.LLM), item.score
        )
        for item in nodes
    ]
    ticket = registry.issue(question, documents, image)
    return [
        NodeWithScore(node=_ticketed(item.node, ticket, ordinal), score=item.score)
        for ordinal, item in enumerate(nodes)
    ]


def _ticketed(node: BaseNode, ticket: Ticket, ordinal: int) -> BaseNode:
    copy = _ticketed_class(type(node))(**node.model_dump(exclude={"class_name"}))
    copy._ticket = ticket  # type: ignore[attr-defined]
    copy._ordinal = ordinal  # type: ignore[attr-defined]
    return copy
