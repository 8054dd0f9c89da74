"""Answers that cite: each pair is one numbered source."""

from __future__ import annotations

from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore

from mrrag_llamaindex.integration.engines.stamping import TicketPostprocessor
from mrrag_llamaindex.integration.tickets.stamps import numbered


class MRRAGCitationQueryEngine(CitationQueryEngine):
    """`CitationQueryEngine` whose sources are the pairs themselves.

    The stock engine cuts every node into new ones, which know neither their pair nor its score.
    Here source n is the n-th document whole, its text begins with "Source n:", and its id is the
    pair's. Made by ``MRRAGIndex.as_citation_engine``.

    Attributes
    ----------
    tickets : TicketPostprocessor
        Set by the index; it comes after the numbers.
    """

    tickets: TicketPostprocessor

    def _create_citation_nodes(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        texts = [item.node.get_content(metadata_mode=MetadataMode.NONE) for item in nodes]
        sources = [
            numbered(item, f"Source {number}:\n{text}\n")
            for number, (item, text) in enumerate(zip(nodes, texts, strict=True), start=1)
        ]
        return self.tickets.postprocess_nodes(sources)
