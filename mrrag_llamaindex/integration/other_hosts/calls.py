"""Messages of any host, read as a call of `MRRAGLLaVA`, and the answer to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.entry_points import HostMessages, Reply
from mrrag_llamaindex.integration.tickets.conversation import (
    INSTRUCTING,
    conversation_of,
    last_user,
)
from mrrag_llamaindex.integration.tickets.host_call import HostCall
from mrrag_llamaindex.integration.tickets.host_prompts import read_finished
from mrrag_llamaindex.integration.tickets.markers import find_segments, find_tickets, strip
from mrrag_llamaindex.integration.tickets.registry import TICKETS, Ticket

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.answer import Answer
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA

_CONDENSE = re.compile(
    r"Chat History:.*\nFollow Up Input:(?P<question>.*?)\n?Standalone question:\s*\Z", re.DOTALL
)
"""The labels in the prompt of LangChain's conversational chains."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes
    ----------
    role : {"system", "user", "assistant", "tool"}
        "tool" is everything that is not read, and of which it is not known what it is about.
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
    call = replace(read_finished(_chat(messages), TICKETS), missing=missing)
    tickets = find_tickets("\n".join(call.contexts), TICKETS)
    return _as_step(call, tickets[0]) if len(tickets) == 1 else call


def _as_step(call: HostCall, ticket: Ticket) -> HostCall:
    """Return a call as the step of a chain that shows one document after another, if it is one.

    A step that refines an earlier answer repeats it, and shows documents that no call has shown. It
    reads all documents so far: the last one alone would be the least relevant, and an answer is no
    evidence. Calls that ask about each document without an earlier answer stand for themselves.
    """
    said = [call.instructions, call.before_question, call.question, call.after_question]
    words = "\n".join([*said, *(turn.answer for turn in call.history)])
    if not ticket.texts:
        ticket.words = words
        return call
    parts = [part for context in call.contexts for part in find_segments(context, ticket)]
    if any(part.ordinal in ticket.texts for part in parts) or not _repeats_answer(ticket, words):
        return call
    asked = ticket.question.strip()
    if call.question != asked and any(turn.question == asked for turn in call.history):
        call = replace(call, question=asked, before_question=call.question, history=())
    return replace(call, kind="refine")


def _repeats_answer(ticket: Ticket, words: str) -> bool:
    """Whether the last answer is said once more than the first call said it, which had none."""
    if not ticket.calls:
        return False
    answer = re.compile(rf"(?<!\w){re.escape(ticket.calls[-1][1].text.strip())}(?!\w)")
    return len(answer.findall(words)) > len(answer.findall(ticket.words))


def follow_up_call(messages: Sequence[Message]) -> HostCall:
    """Read messages that ask to rephrase the last one, so that it can be searched with.

    Raises
    ------
    InputError
        If question and conversation are one text in words of the application's own.
    """
    chat = _chat(messages)
    last = last_user(chat)
    texts = [strip(message.text) for message in messages]
    earlier = conversation_of(chat[:last], texts[:last])
    # The first message says what is asked for; a summary of earlier turns is a system message, too.
    left_over = earlier.left_over + sum(message.role in INSTRUCTING for message in chat[1:])
    question = texts[last].strip()
    if not earlier.turns and not left_over:
        stock = _CONDENSE.search(question)
        if stock is None:
            raise InputError(
                "the model that hands on a follow-up question cannot tell it from the conversation "
                "in one text: give the conversation as messages, as create_history_aware_retriever "
                'takes it: MessagesPlaceholder("chat_history") and then ("human", "{input}")'
            )
        question, left_over = stock["question"].strip(), 1
    return HostCall(
        "condense", question, history=earlier.turns, text="\n".join(texts), left_over=left_over
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
