"""The prompt of an answer once more, for what asks it again, with a document hidden for example."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import MetadataMode, NodeWithScore

from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.integration.tickets.markers import strip


def request_of(question: str, nodes: Sequence[NodeWithScore]) -> PromptRequest:
    """Return what an engine without a conversation asks of the generator.

    Parameters
    ----------
    question : str
    nodes : sequence of NodeWithScore
        Its documents, as a retriever returned them.
    """
    documents = [
        PromptDocument(
            item.node.node_id,
            strip(item.node.get_content(metadata_mode=MetadataMode.LLM)),
            item.score,
        )
        for item in nodes
    ]
    return PromptRequest(strip(question), documents)
