"""Messages of any host, read as a call of `MRRAGLLaVA`, and the answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from mrrag_llamaindex.integration.entry_points import HostMessages, Reply
from mrrag_llamaindex.integration.tickets.conversation import (
    INSTRUCTING,
    conversation_of,
    last_user,
)
from mrrag_llamaindex.integration.tickets.host_call import HostCall
from mrrag_llamaindex.integration.tickets.host_prompts import read_finished
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.registry import TICKETS

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.answer import Answer
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes
    ----------
    role : {"system", "user", "assistant", "tool"}
    text : str
        With the markers that the host was given.
    images : tuple of str, Path or bytes
        Files, or encoded images.
    """

    role: Role
    text: str
    images: tuple[str | Path | bytes, ...] = ()


def question_call(messages: Sequence[Message], missing: str) -> HostCall:
    """Read messages that ask a question.

    Parameters
    ----------
    messages : sequence of Message
    missing : str
        What to say where no evidence is among them.

    Raises
    ------
    EvidenceError
        If the evidence of two images is among them, or the question's message holds an image that
        its documents were not retrieved for.
    InputError
        If there is no user message, or the last one holds several images.
    """
    return replace(read_finished(_chat(messages), TICKETS), missing=missing)


def follow_up_call(messages: Sequence[Message]) -> HostCall:
    """Read messages that ask to rephrase the last one, so that it can be searched with."""
    chat = _chat(messages)
    last = last_user(chat)
    texts = [strip(message.text) for message in messages]
    earlier = conversation_of(chat[:last], texts[:last])
    # The first one says what is asked for; a summary of earlier turns is a system message, too.
    recalled = sum(message.role in INSTRUCTING for message in chat[1:])
    return HostCall(
        "condense",
        texts[last].strip(),
        history=earlier.turns,
        text="\n".join(texts),
        left_over=earlier.left_over + recalled,
    )


def answer(llm: MRRAGLLaVA, call: HostCall, options: dict[str, Any]) -> Answer:
    """Answer a call; ``options`` are those of one call of `MRRAGLLaVA`."""
    return llm._answer(_of(call), options)


def replies(llm: MRRAGLLaVA, call: HostCall, options: dict[str, Any]) -> Iterator[Reply]:
    """Check everything now; generate when the replies are read."""
    return llm._open(_of(call), options)


def _of(call: HostCall) -> HostMessages:
    messages = HostMessages()
    messages.call = call
    return messages


def _chat(messages: Sequence[Message]) -> list[ChatMessage]:
    return [
        ChatMessage(
            role=message.role,
            blocks=[TextBlock(text=message.text), *map(_block, message.images)],
        )
        for message in messages
    ]


def _block(source: str | Path | bytes) -> ImageBlock:
    if isinstance(source, bytes):
        return ImageBlock(image=source, image_mimetype="image/*")
    return ImageBlock(path=Path(source), image_mimetype="image/*")
