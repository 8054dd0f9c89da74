"""The eight calls that a LlamaIndex host may make: at once or streamed, sync or async."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

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

from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.integration.trace import answer_facts


class Reply(NamedTuple):
    """An answer, or how far a stream has come, in a form that both kinds of response take.

    Attributes
    ----------
    text : str
        The text so far.
    delta : str or None
        What is new in it; None for an answer given at once.
    facts : dict
        Facts of the answer; with a stream's last reply only.
    """

    text: str
    delta: str | None
    facts: dict[str, Any]

    @classmethod
    def of(cls, answer: Answer) -> Reply:
        """Return an answer that is given at once."""
        return cls(answer.text, None, answer_facts(answer))

    def completion(self) -> CompletionResponse:
        """Return it as the response to a prompt."""
        return CompletionResponse(text=self.text, delta=self.delta, additional_kwargs=self.facts)

    def chat(self) -> ChatResponse:
        """Return it as the response to messages."""
        message = ChatMessage(role=MessageRole.ASSISTANT, content=self.text)
        return ChatResponse(message=message, delta=self.delta, additional_kwargs=self.facts)


class EntryPoints(CustomLLM):
    """An LLM behind one pair of methods: `_answer` for an answer at once, `_open` for a stream.

    `CustomLLM` derives four of the eight calls from the others, and in doing so drops images and
    blocks the event loop; here each is written out.
    """

    @abstractmethod
    def _answer(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Answer:
        """Answer the last user message; raise `RuntimeError` if that cannot be done."""

    @abstractmethod
    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Iterator[Reply]:
        """Check everything now; generate when the replies are read."""

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        return Reply.of(self._answer(as_messages(prompt), kwargs)).completion()

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        replies = self._open(as_messages(prompt), kwargs)
        return (reply.completion() for reply in replies)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message."""
        return Reply.of(self._answer(messages, kwargs)).chat()

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer the last user message piece by piece."""
        replies = self._open(messages, kwargs)
        return (reply.chat() for reply in replies)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, as_messages(prompt), kwargs)
        return Reply.of(answer).completion()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        replies = await asyncio.to_thread(self._open, as_messages(prompt), kwargs)
        return (reply.completion() async for reply in _off_loop(replies))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message without blocking the event loop."""
        answer = await asyncio.to_thread(self._answer, messages, kwargs)
        return Reply.of(answer).chat()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer the last user message piece by piece without blocking the event loop."""
        replies = await asyncio.to_thread(self._open, messages, kwargs)
        return (reply.chat() async for reply in _off_loop(replies))


def as_messages(prompt: str) -> list[ChatMessage]:
    """Return a prompt as one user message."""
    return [ChatMessage(role=MessageRole.USER, content=prompt)]


async def _off_loop(replies: Iterator[Reply]) -> AsyncIterator[Reply]:
    """Read a blocking iterator in worker threads."""
    end: Any = object()
    try:
        while (reply := await asyncio.to_thread(next, replies, end)) is not end:
            yield reply
    finally:
        close = getattr(replies, "close", None)
        if close is not None:
            await asyncio.to_thread(close)
