"""The eight calls that a LlamaIndex host may make: whole or streamed, sync or async."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.integration.calls import Piece, as_messages, chat_response, off_loop
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
