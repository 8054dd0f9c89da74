"""The ways in which the host's engines are asked, and another retriever beside ours."""

from __future__ import annotations

import pytest
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

SECOND = "Is there a nodule?"

query_ways = pytest.mark.parametrize("way", ["query", "aquery"])

CHAT_WAYS = ("chat", "achat", "stream_chat", "astream_chat")
chat_ways = pytest.mark.parametrize("way", CHAT_WAYS)

RETRIEVING_MODES = (
    ChatMode.CONTEXT,
    ChatMode.CONDENSE_PLUS_CONTEXT,
    ChatMode.CONDENSE_QUESTION,
    ChatMode.BEST,
)
chat_modes = pytest.mark.parametrize("mode", RETRIEVING_MODES)


async def ask(engine, question, way: str):
    """Ask at once or asynchronously, see `query_ways`."""
    return await engine.aquery(question) if way == "aquery" else engine.query(question)


async def say(chat, text: str, way: str):
    """Say something in one of `CHAT_WAYS`; return the response and its text."""
    response = getattr(chat, way)(text)
    if way.startswith("a"):
        response = await response
    if way == "astream_chat" and not response.source_nodes:
        # The host forgets them in mode condense_question, and keeps the engine's own response.
        response.source_nodes = [n for one in response.sources for n in one.raw_output.source_nodes]
    if way == "stream_chat":
        return response, "".join(response.response_gen)
    if way == "astream_chat":
        return response, "".join([piece async for piece in response.async_response_gen()])
    return response, str(response)


class Reports(BaseRetriever):
    """Another retriever over the same reports, as BM25 is: its scores are on a scale of its own."""

    def __init__(self, pairs, **options):
        super().__init__(**options)
        self._pairs = pairs

    def _retrieve(self, query_bundle):
        return [
            NodeWithScore(node=TextNode(id_=pair.pair_id, text=pair.report), score=9.0 - place)
            for place, pair in enumerate(self._pairs)
        ]
