"""The last step before an engine's LLM: a ticket for all nodes, or for none."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.integration.query_image import (
    MissingImage,
    enclosing_image,
    read_query_image,
)
from mrrag_llamaindex.integration.tickets.nodes import evidence_of, other_image
from mrrag_llamaindex.integration.tickets.stamps import stamp, unstamp


def reads_tickets(llm: Any) -> bool:
    """Whether an LLM is known to read tickets, so that nodes for it may carry them."""
    return isinstance(llm.llm if isinstance(llm, StructuredLLM) else llm, MRRAGLLaVA)


class TicketPostprocessor(BaseNodePostprocessor):
    """Put one ticket on all nodes of a question, or take tickets away.

    It stands behind every other postprocessor, so that those read plain text, whatever LLM they
    use, and what they bring along is a document of its own.

    Parameters
    ----------
    stamped : bool
        Whether the engine's LLM reads tickets; nodes for any other are given none.
    image : QueryImage, optional
        The one that the engine is bound to.
    on_missing_image : {"error", "ignore"}
        For nodes that do not know what image they were retrieved for.
    """

    stamped: bool = Field(description="Whether the engine's LLM reads tickets.")
    on_missing_image: MissingImage = Field(default="error")
    _image: QueryImage | None = PrivateAttr(None)

    def __init__(self, *, image: QueryImage | None = None, **data: Any) -> None:
        super().__init__(**data)
        self._image = image

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name of the class, for serialisation."""
        return "TicketPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._with_ticket(nodes, query_bundle, self._enclosing())

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        # The block around the question is known here and not in the thread.
        enclosing = self._enclosing()
        return await asyncio.to_thread(self._with_ticket, nodes, query_bundle, enclosing)

    def _enclosing(self) -> QueryImage | None:
        return enclosing_image(self._image) if self.stamped else self._image

    def _with_ticket(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None,
        enclosing: QueryImage | None,
    ) -> list[NodeWithScore]:
        if not self.stamped:
            return unstamp(nodes)
        if not nodes:
            raise EvidenceError(
                "no documents are left for this question: the postprocessors took all of them "
                "away, and LlamaIndex would answer with the words Empty Response"
            )
        bundle = query_bundle or QueryBundle("")
        evidence = evidence_of(nodes)
        known = None if evidence is None else evidence.image
        image = read_query_image(
            bundle, self.on_missing_image if evidence is None else "ignore", known, enclosing
        )
        if evidence is not None and image is not None and image != evidence.image:
            raise other_image()
        question = bundle.query_str or (evidence.question if evidence else "")
        return stamp(nodes, question, image if evidence is None else evidence.image)
