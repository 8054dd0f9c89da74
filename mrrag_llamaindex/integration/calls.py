"""Between LlamaIndex's call conventions and ours: messages in, responses and settings out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole

from mrrag_llamaindex.errors import ModelError

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
