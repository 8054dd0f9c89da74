"""What a chat engine may be given: memories, messages before the conversation, templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.tickets.readers import reads_tickets


def require_memory(memory: Any) -> None:
    """Refuse a memory that has `MRRAGLLaVA` sum up turns or extract facts of them.

    It answers questions about an image, and would raise at the first turn that leaves the buffer.

    Raises
    ------
    InputError
        If it is such a memory.
    """
    for part in _parts(memory):
        if reads_tickets(getattr(part, "llm", None)):
            raise InputError(
                f"{type(part).__name__} is to sum up turns, or extract facts of them, with "
                "MRRAGLLaVA, which answers questions about an image and does neither: give it "
                "another LLM (llm=). What it writes is left out of prompts, since it may be about "
                "another image"
            )


def _parts(memory: Any) -> Iterator[Any]:
    """Return a memory and those that it is made of."""
    yield memory
    for name in ("memory_blocks", "secondary_memory_sources"):
        for part in getattr(memory, name, None) or ():
            yield from _parts(part)
    if getattr(memory, "primary_memory", None) is not None:
        yield from _parts(memory.primary_memory)


def require_prefix(messages: Sequence[ChatMessage] | None) -> None:
    """Refuse turns before the conversation: it is not known which image they are about.

    Raises
    ------
    InputError
        If there is anything but one system message.
    """
    instructing = (MessageRole.SYSTEM, MessageRole.DEVELOPER)
    for message in (messages or ())[1:]:
        raise InputError(
            f"prefix_messages holds a second message, of role {message.role.value!r}, and it "
            "cannot be told which image it is about: write what holds for all questions into one "
            "system message (system_prompt=)"
        )
    if messages and messages[0].role not in instructing:
        raise InputError(
            f"prefix_messages holds a message of role {messages[0].role.value!r}, and it cannot be "
            "told which image it is about: take system_prompt="
        )


def require_templates(options: Mapping[str, Any]) -> None:
    """Refuse a template of the context that LlamaIndex's chat engines cannot fill.

    Parameters
    ----------
    options : mapping
        Of the chat engine.

    Raises
    ------
    InputError
        If it is one of messages, or a rich one.
    """
    for name in _CONTEXT_TEMPLATES:
        template = options.get(name)
        if not (template is None or isinstance(template, (str, PromptTemplate))):
            raise InputError(
                f"{name} is a {type(template).__name__}, and LlamaIndex's chat engines make a part "
                "of the system message of it: give a PromptTemplate, or text with {context_str}"
            )


_CONTEXT_TEMPLATES = (
    "context_template",
    "context_refine_template",
    "context_prompt",
    "context_refine_prompt",
)
