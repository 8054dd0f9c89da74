"""LangChain's messages: what everyone sees of them, and how the chat model reads them."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import PrivateAttr

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.images import image_source
from mrrag_llamaindex.integration.other_hosts.calls import Message, Role
from mrrag_llamaindex.integration.tickets.markers import labels_inside, strip

_ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
_THOUGHTS = ("reasoning", "thinking")
"""What a model thought, which is no part of what it said."""


@functools.cache
def _marked_class(base: type[BaseMessage]) -> type[BaseMessage]:
    """Subclass a message class, so that every other reader takes it for what it was."""

    class Marked(base):  # type: ignore[misc, valid-type]
        _marked: Any = PrivateAttr(None)
        _recalled: bool = PrivateAttr(False)

        @classmethod
        def lc_id(cls) -> list[str]:
            return base.lc_id()

        def __reduce__(self) -> tuple[Any, ...]:
            return _plain, (base, self.model_fields_set, dict(self.__dict__))

    Marked.__name__ = Marked.__qualname__ = base.__name__
    return Marked


def _plain(base: type[BaseMessage], names: set[str], fields: dict[str, Any]) -> BaseMessage:
    return base.model_construct(names, **fields)


def without_visible_markers(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return messages whose content has no markers; what they had goes with them, unseen."""
    return [_hidden(message) for message in messages]


def _hidden(message: BaseMessage) -> BaseMessage:
    content: Any = _stripped(message.content)
    if content == message.content:
        return message
    return _copy(message, content=content, _marked=message.content)


def _copy(message: BaseMessage, **changes: Any) -> BaseMessage:
    """Copy a message with other fields, and with what goes with it unseen."""
    base = _base_of(message)
    unseen = {name: getattr(message, name, None) for name in ("_marked", "_recalled")}
    unseen.update({name: changes.pop(name) for name in list(changes) if name in unseen})
    copy = _marked_class(base).model_construct(
        message.model_fields_set, **{**message.__dict__, **changes}
    )
    for name, value in unseen.items():
        setattr(copy, name, value)
    return copy


def _base_of(message: BaseMessage) -> type[BaseMessage]:
    kind = type(message)
    return kind.__mro__[1] if hasattr(message, "_marked") else kind


def _stripped(content: Any) -> Any:
    if isinstance(content, str):
        return strip(content)
    if isinstance(content, list):
        return [_stripped(block) for block in content]
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return {**content, "text": strip(content["text"])}
    return content


def with_labels(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return messages with what a prompt wrote before each document inside its markers."""
    return [
        message.model_copy(update={"content": labels_inside(message.content)})
        if isinstance(message.content, str)
        else message
        for message in messages
    ]


def recalled(messages: Sequence[BaseMessage], history: Collection[int]) -> list[BaseMessage]:
    """Return messages of which those that instruct and come from a history are marked as such.

    Parameters
    ----------
    messages : sequence of BaseMessage
    history : collection of int
        Identities of the messages that the application's memory handed over: a summary among them
        may be about any image.
    """
    return [
        _copy(message, _recalled=True)
        if id(message) in history and isinstance(message, SystemMessage)
        else message
        for message in messages
    ]


def rows_of(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return messages as the bridge reads them, with their markers.

    Raises
    ------
    InputError
        If one is of a kind that this model does not read, or the question, or what instructs,
        holds a part that it does not read. Earlier turns with such parts are not read at all.
    ImageError
        If an image can only be had from the network.
    """
    asked = max(
        (place for place, message in enumerate(messages) if _role(message) == "user"), default=-1
    )
    return [_row(message, place == asked) for place, message in enumerate(messages)]


def require_words(rows: Sequence[Message]) -> None:
    """Refuse a prompt of the host whose answer is to be more than words.

    Raises
    ------
    InputError
        If it asks for JSON, or for a score of the answer.
    """
    text = "\n".join(row.text for row in rows)
    if re.search(r"conforms to the (JSON )?schema\b", text):
        raise InputError(
            "the prompt asks for JSON of a schema, and this model answers in words: take "
            "llm.with_structured_output(...) for a schema with one verdict"
        )
    if "Score: [score between 0 and 100]" in text:
        raise InputError(
            "the prompt asks for a score of the answer in words, as map_rerank does, and this "
            "model has none: take the chain type stuff or refine, and p_yes and p_no of the answer"
        )


def _row(message: BaseMessage, asked: bool) -> Message:
    content = _with_markers(message)
    role = _role(message)
    blocks: list[Any] = content if isinstance(content, list) else [content]
    texts, images = [], []
    for block in blocks:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind == "text":
            texts.append(block if isinstance(block, str) else str(block.get("text", "")))
        elif role == "user" and kind in ("image", "image_url"):
            images.append(_image(block))
        elif asked or role == "system":
            where = "the question" if asked else "a system message"
            raise InputError(
                f"{where} holds a part of type {kind!r}, which ChatMRRAG does not read: it reads "
                "text, and one image in the message of the question, as base64, a data URL or a "
                "file URL"
            )
        elif role != "assistant" or kind not in _THOUGHTS:
            role = "tool"  # such a turn is about something that is not read
    if getattr(message, "_recalled", False):
        role = "tool"  # a summary of turns may be about any image, and is not read either
    return Message(role, "\n".join(texts), tuple(images))


def _with_markers(message: BaseMessage) -> Any:
    """Return a message's content as the prompt made it, and what a host has joined to it since."""
    marked: Any = getattr(message, "_marked", None)
    content = message.content
    clean = _stripped(marked)
    if isinstance(content, str) and isinstance(clean, str) and clean:
        return content.replace(clean, marked, 1)
    return marked if clean == content and marked is not None else content


def _role(message: BaseMessage) -> Role:
    kinds: tuple[tuple[Any, Role], ...] = (
        (HumanMessage, "user"),
        (AIMessage, "assistant"),
        (SystemMessage, "system"),
        ((ToolMessage, FunctionMessage), "tool"),
    )
    for kind, role in kinds:
        if isinstance(message, kind):
            return "tool" if getattr(message, "tool_calls", None) else role
    if isinstance(message, ChatMessage) and message.role.lower() in _ROLES:
        return _ROLES[message.role.lower()]
    raise InputError(f"ChatMRRAG does not read a message of type {type(message).__name__}")


def _image(block: dict[str, Any]) -> str | Path | bytes:
    """Return the image of a content block, in the forms that LangChain has for one."""
    if block["type"] == "image_url":
        url = block.get("image_url")
        source: Any = url.get("url") if isinstance(url, dict) else url
    else:
        inner = block.get("source")
        place = inner if isinstance(inner, dict) else block
        data = place.get("base64") or place.get("data")
        source = f"data:;base64,{data}" if data else place.get("url")
    if not isinstance(source, str):
        raise InputError(
            "an image of a message is none that ChatMRRAG reads: give it as base64, a data URL or "
            "a file URL"
        )
    image = QueryImage.read(image_source(source))
    assert isinstance(image.content, bytes)
    return image.content
