"""`MRRAGSynthesizer`: one prompt, one answer, and an error instead of a guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.response_synthesizers.base import BaseSynthesizer, QueryTextType
from llama_index.core.schema import NodeWithScore
from llama_index.core.types import RESPONSE_TEXT_TYPE

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY, ticket_of
from mrrag_llamaindex.integration.tickets.readers import inner_llm, reads_tickets
from mrrag_llamaindex.integration.trace import answer_facts, answer_trace, note_influence


class MRRAGSynthesizer(BaseSynthesizer):
    """Answer from scored documents in one LLM call, strictly.

    The stock synthesizers split long evidence over several calls and answer "Empty Response"
    when there is none. This one asks once with all documents (those that do not fit leave,
    lowest score first, and are named), and raises `EvidenceError` when evidence is absent or
    carries no ticket. ``response.metadata["mrrag"]`` says what was read and steered; with
    ``MRRAGLLaVA(explain=True)`` also how much each document moved the answer, which every source
    node then says of its own in its metadata.

    Parameters
    ----------
    llm : MRRAGLLaVA
    streaming : bool
        Stream; `answer_trace` gives the metadata of a stream once it has been read.
    callback_manager : CallbackManager, optional
        LlamaIndex's; LlamaIndex sets it on ``llm``, too. Default: that of ``Settings``.

    Raises
    ------
    InputError
        At construction, if ``llm`` is another LLM, or answers in a schema and is to stream.
    """

    def __init__(
        self,
        llm: MRRAGLLaVA,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        if not reads_tickets(llm):
            raise InputError(
                f"MRRAGSynthesizer answers by MRRAGLLaVA, and llm is a {type(llm).__name__}: give "
                "MRRAGLLaVA(...), or another LLM to a synthesizer of LlamaIndex"
            )
        if streaming and inner_llm(llm) is not llm:
            raise InputError(
                "the LLM answers in a schema, and LlamaIndex parses one whole answer: leave "
                "streaming=True out, or give the plain LLM"
            )
        super().__init__(llm=llm, streaming=streaming, callback_manager=callback_manager)

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        if prompts:
            raise InputError(
                f"MRRAGSynthesizer takes no prompt {sorted(prompts)[0]!r}: the layout is the "
                "model's own; a template is for response_mode=, without response_synthesizer"
            )

    def synthesize(
        self, query: QueryTextType, nodes: list[NodeWithScore], *args: Any, **kwargs: Any
    ) -> RESPONSE_TYPE:
        """Answer ``query`` from ``nodes``; see the class for what is refused."""
        _require_ticket(nodes)
        return super().synthesize(query, nodes, *args, **kwargs)

    async def asynthesize(
        self, query: QueryTextType, nodes: list[NodeWithScore], *args: Any, **kwargs: Any
    ) -> RESPONSE_TYPE:
        """Answer ``query`` from ``nodes``; see the class for what is refused."""
        _require_ticket(nodes)
        return await super().asynthesize(query, nodes, *args, **kwargs)

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """Answer ``query_str`` from marked texts."""
        message = _message(query_str, text_chunks)
        if self._streaming:
            return (piece.delta or "" for piece in self._llm.stream_chat([message]))
        return str(self._llm.chat([message]).message.content)

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """Answer ``query_str`` from marked texts."""
        message = _message(query_str, text_chunks)
        if self._streaming:
            stream = await self._llm.astream_chat([message])
            return (piece.delta or "" async for piece in stream)
        return str((await self._llm.achat([message])).message.content)

    def _prepare_response_output(
        self, response_str: RESPONSE_TEXT_TYPE | None, source_nodes: list[NodeWithScore]
    ) -> RESPONSE_TYPE:
        response = super()._prepare_response_output(response_str, source_nodes)
        answers = answer_trace(source_nodes)
        if isinstance(response_str, str) and answers:
            note_influence(source_nodes, answers[-1])
            response.metadata = {**(response.metadata or {}), **answer_facts(answers[-1])}
        return response


def _message(query_str: str, text_chunks: Sequence[str]) -> ChatMessage:
    text = "\n\n".join([*text_chunks, query_str])
    return ChatMessage(role=MessageRole.USER, content=text)


def _require_ticket(nodes: Sequence[NodeWithScore]) -> None:
    if not nodes:
        raise EvidenceError("no documents found for this question, so there is nothing to read")
    if any(ticket_of(item.node) is None for item in nodes):
        raise EvidenceError(
            f"MRRAGSynthesizer got nodes without {METADATA_KEY} tickets; retrieve them with "
            "MRRAGRetriever (and not with stamped=False), or put MRRAGPostprocessor last in "
            "node_postprocessors"
        )
