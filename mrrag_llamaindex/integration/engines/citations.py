"""Answers that cite: each pair is one numbered source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from mrrag_llamaindex.integration.engines.stamping import TicketPostprocessor
from mrrag_llamaindex.integration.tickets.nodes import numbered


class MRRAGCitationQueryEngine(CitationQueryEngine):
    """`CitationQueryEngine` whose sources are the pairs themselves.

    The stock engine cuts every node into new ones, which know neither their pair nor its score.
    Here source n is the n-th document whole, its text begins with "Source n:", and its id is the
    pair's. Made by ``MRRAGIndex.as_citation_engine``.

    Parameters
    ----------
    tickets : TicketPostprocessor
    **options
        Those of `CitationQueryEngine`, but for the ones that say how nodes are cut.
    """

    def __init__(self, *args: Any, tickets: TicketPostprocessor, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tickets = tickets

    def _create_citation_nodes(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        texts = [item.node.get_content(metadata_mode=MetadataMode.NONE) for item in nodes]
        return [
            numbered(item, f"Source {number}:\n{text}\n")
            for number, (item, text) in enumerate(zip(nodes, texts, strict=True), start=1)
        ]

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Answer from numbered sources."""
        sources = self._tickets.postprocess_nodes(
            self._create_citation_nodes(nodes), query_bundle=query_bundle
        )
        return self._response_synthesizer.synthesize(query_bundle, sources, additional_source_nodes)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Answer from numbered sources."""
        sources = await self._tickets.apostprocess_nodes(
            self._create_citation_nodes(nodes), query_bundle=query_bundle
        )
        return await self._response_synthesizer.asynthesize(
            query_bundle, sources, additional_source_nodes
        )
