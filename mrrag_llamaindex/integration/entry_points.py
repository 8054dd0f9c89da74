"""The eight calls that a LlamaIndex host may make: whole or streamed, sync or async."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.integration.trace import answer_facts


class EntryPoints(CustomLLM):
    """An LLM behind one pair of methods: `_answer` for a whole answer, `_open` for a stream.

    `CustomLLM` derives four of the eight calls from the others, and in doing so drops images and
    blocks the event loop; here each is written out.
    """

    @abstractmethod
    def _answer(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Answer:
        """Answer the last user message; raise `RuntimeError` if that cannot be done."""

    @abstractmethod
    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Iterator[Piece]:
        """Check everything now; generate when the pieces are read."""

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        answer = self._answer(as_messages(prompt), kwargs)
        return CompletionResponse(text=answer.text, additional_kwargs=answer_facts(answer))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        call = self._open(as_messages(prompt), kwargs)

        def pieces() -> CompletionResponseGen:
            for text, delta, facts in call:
                yield CompletionResponse(text=text, delta=delta, additional_kwargs=facts)

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message."""
        answer = self._answer(messages, kwargs)
        return chat_response(answer.text, None, answer_facts(answer))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer the last user message piece by piece."""
        call = self._open(messages, kwargs)

        def pieces() -> ChatResponseGen:
            for text, delta, facts in call:
                yield chat_response(text, delta, facts)

        return pieces()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, as_messages(prompt), kwargs)
        return CompletionResponse(text=answer.text, additional_kwargs=answer_facts(answer))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        call = await asyncio.to_thread(self._open, as_messages(prompt), kwargs)

        async def pieces() -> CompletionResponseAsyncGen:
            async for text, delta, facts in off_loop(call):
                yield CompletionResponse(text=text, delta=delta, additional_kwargs=facts)

        return pieces()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, messages, kwargs)
        return chat_response(answer.text, None, answer_facts(answer))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer the last user message piece by piece without blocking the event loop."""
        call = await asyncio.to_thread(self._open, messages, kwargs)

        async def pieces() -> ChatResponseAsyncGen:
            async for text, delta, facts in off_loop(call):
                yield chat_response(text, delta, facts)

        return pieces()


Piece = tuple[str, str, dict[str, Any]]
"""Text so far, new text, and facts of the answer (with the last piece)."""


def as_messages(prompt: str) -> list[ChatMessage]:
    """Return a prompt as one user message."""
    return [ChatMessage(role=MessageRole.USER, content=prompt)]


def chat_response(text: str, delta: str | None, facts: dict[str, Any]) -> ChatResponse:
    """Return text, or a piece of it, as a chat response with the facts of its answer."""
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, additional_kwargs=facts)


def token_limit(kwargs: dict[str, Any]) -> int | None:
    """Read ``max_new_tokens``; other generation settings are refused rather than ignored."""
    unknown = sorted(set(kwargs) - {"max_new_tokens"})
    if unknown:
        raise ModelError(
            f"MRRAGLLaVA does not take {unknown[0]!r}: it decodes greedily, so that an answer can "
            "be reproduced; the one setting per call is max_new_tokens"
        )
    return kwargs.get("max_new_tokens")


async def off_loop(pieces: Iterator[Piece]) -> AsyncIterator[Piece]:
    """Read a blocking iterator in worker threads."""
    end: Any = object()
    try:
        while (piece := await asyncio.to_thread(next, pieces, end)) is not end:
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            await asyncio.to_thread(close)
