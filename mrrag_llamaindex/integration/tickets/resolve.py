"""From the messages of a host to a request: ticket, image, documents, question.

One function stands behind all entry points of `MRRAGLLaVA`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.host_prompts import (
    HostText,
    Kind,
    read_system_text,
    read_user_text,
    readable,
)
from mrrag_llamaindex.integration.tickets.markers import Segment, find_segments, find_ticket, strip
from mrrag_llamaindex.integration.tickets.registry import Ticket, TicketRegistry

MissingContext = Literal["error", "warn", "ignore"]

UNATTRIBUTED = "unattributed context"
"""Id of context text that a host added to our documents; it is read, and never steered to."""

_NO_EVIDENCE = (
    "MRRAGLLaVA got no evidence for this question: no query image and no scores arrived. Use one "
    "of MRRAGIndex, MRRAGPostprocessor (last in node_postprocessors), or MRRAGSynthesizer. "
    "tree_summarize loses the evidence at its second level: use another response mode, or a "
    'larger context window. To answer without evidence, set on_missing_context="warn" or "ignore"'
)


@dataclass(frozen=True)
class Resolved:
    """One LLM call, resolved.

    Attributes
    ----------
    request : PromptRequest
    image : QueryImage or None
    ticket : Ticket or None
    kind : str
        "condense" marks a chat engine's request to rephrase a follow-up question.
    follow_up : str
        The question to rephrase, for "condense".
    """

    request: PromptRequest
    image: QueryImage | None
    ticket: Ticket | None
    kind: Kind
    follow_up: str = ""


def resolve(
    messages: Sequence[ChatMessage],
    registry: TicketRegistry,
    on_missing_context: MissingContext,
) -> Resolved:
    """Resolve the messages of one call.

    Raises
    ------
    EvidenceError
        If no evidence arrived and the policy is "error", if it was evicted, or if two questions'
        evidence stands in one prompt.
    InputError
        If there is no user message, or several images without a ticket.
    """
    texts = [_text(message) for message in messages]
    ticket = find_ticket("\n".join(texts), registry)
    segments = [find_segments(text, ticket) if ticket else [] for text in texts]
    rests = [strip(_without(text, parts)) for text, parts in zip(texts, segments, strict=True)]

    last = _last_user(messages)
    user = read_user_text(rests[last])
    systems = [
        read_system_text(rest)
        for rest, message in zip(rests, messages, strict=True)
        if message.role in (MessageRole.SYSTEM, MessageRole.DEVELOPER)
    ]
    if user.kind == "condense":
        request = PromptRequest(rests[last].strip())
        return Resolved(request, None, None, "condense", user.question)

    image = ticket.image if ticket else _direct_image(messages[last], user)
    if ticket is None and image is None:
        _missing(on_missing_context)

    refine = "refine" in (user.kind, *(system.kind for system in systems))
    before, question, after = _around(user, ticket)
    request = PromptRequest(
        question=question,
        documents=_documents(ticket, segments, [user, *systems], refine),
        instructions="\n".join(system.question for system in systems if system.question),
        before_question=before,
        after_question=after,
        history=_history(messages[:last], rests[:last]),
    )
    return Resolved(request, image, ticket, "refine" if refine else user.kind)


def _text(message: ChatMessage) -> str:
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def _without(text: str, segments: Sequence[Segment]) -> str:
    for segment in reversed(segments):
        text = text[: segment.start] + " " + text[segment.stop :]
    return text


def _last_user(messages: Sequence[ChatMessage]) -> int:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == MessageRole.USER:
            return index
    raise InputError("the messages hold no user message, so nothing is asked")


def _direct_image(message: ChatMessage, user: HostText) -> QueryImage | None:
    """Image of a chat message that a person sent; never one that a synthesizer packed."""
    images = [block for block in message.blocks if isinstance(block, ImageBlock)]
    if not images or user.kind != "plain":
        return None
    if len(images) > 1:
        raise InputError(f"the message holds {len(images)} images; the model reads one")
    return QueryImage.read(images[0].resolve_image().read())


def _missing(policy: MissingContext) -> None:
    if policy == "error":
        raise EvidenceError(_NO_EVIDENCE)
    if policy == "warn":
        warnings.warn(_NO_EVIDENCE, stacklevel=1)


def _around(user: HostText, ticket: Ticket | None) -> tuple[str, str, str]:
    """Split an application's own template around the question that it holds."""
    if user.kind == "plain" and ticket is not None and ticket.question.strip():
        before, question, after = user.question.rpartition(ticket.question.strip())
        if question:
            return readable(before) and before, question, after
    return "", user.question, ""


def _documents(
    ticket: Ticket | None,
    segments: Sequence[Sequence[Segment]],
    hosts: Sequence[HostText],
    refine: bool,
) -> tuple[PromptDocument, ...]:
    """Documents of this call, best first, then text that the host added.

    A refine step reads every document shown so far rather than an earlier answer: steering
    weighs documents against each other, so they must stand side by side, and an answer is no
    evidence.
    """
    texts: dict[int, str] = {}
    for segment in itertools.chain.from_iterable(segments):
        texts[segment.ordinal] = _join(texts.get(segment.ordinal, ""), segment.text)
    documents = []
    if ticket is not None:
        for ordinal, text in texts.items():
            ticket.texts[ordinal] = _join(ticket.texts.get(ordinal, ""), text)
        for ordinal, text in sorted((ticket.texts.copy() if refine else texts).items()):
            documents.append(replace(ticket.documents[ordinal], text=text))
    for host in hosts:
        if text := readable(host.context):
            documents.append(PromptDocument(UNATTRIBUTED, text))
    return tuple(documents)


def _join(first: str, second: str) -> str:
    """Join two parts of one document whose ends may overlap by some words."""
    head, tail = first.split(), second.split()
    if not head or _contains(tail, head):
        return second
    if _contains(head, tail):
        return first
    for size in range(min(len(head), len(tail)), 0, -1):
        if head[-size:] == tail[:size]:
            return " ".join(head + tail[size:])
    for size in range(min(len(head), len(tail)), 0, -1):
        if tail[-size:] == head[:size]:
            return " ".join(tail + head[size:])
    return f"{first} {second}"


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    size = len(part)
    return any(words[i : i + size] == part for i in range(len(words) - size + 1))


def _history(messages: Sequence[ChatMessage], rests: Sequence[str]) -> tuple[tuple[str, str], ...]:
    turns: list[tuple[str, str]] = []
    question: str | None = None
    for message, rest in zip(messages, rests, strict=True):
        if message.role == MessageRole.USER:
            question = rest.strip()
        elif message.role == MessageRole.ASSISTANT and question is not None:
            turns.append((question, rest.strip()))
            question = None
    return tuple(turns)
