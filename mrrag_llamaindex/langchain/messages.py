"""LangChain's messages: what everyone sees of them, and how the chat model reads them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from mrrag_llamaindex.integration.tickets.markers import strip

_ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
}


@functools.cache
def _marked_class(base: type[BaseMessage]) -> type[BaseMessage]:
    """Subclass a message class, so that every other reader takes it for what it was."""

    class Marked(base):  # type: ignore[misc, valid-type]
        _marked: Any = PrivateAttr(None)

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
    fields = {**message.__dict__, "content": content}
    copy = _marked_class(type(message)).model_construct(message.model_fields_set, **fields)
    copy._marked = message.content  # type: ignore[attr-defined]
    return copy


def _stripped(content: Any) -> Any:
    if isinstance(content, str):
        return strip(content)
    if isinstance(content, list):
        return [_stripped(block) for block in content]
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return {**content, "text": strip(content["text"])}
    return content


def rows_of(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return messages as the bridge reads them, with their markers.

    Raises
    ------
    InputError
        If one is of a kind, or holds something, that this model does not read.
    ImageError
        If an image can only be had from the network.
    """
    return [_row(message) for message in messages]


def _row(message: BaseMessage) -> Message:
    content = _with_markers(message)
    role = _role(message)
    blocks: list[Any] = content if isinstance(content, list) else [content]
    texts, images = [], []
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        elif role == "user":
            images.append(_image(block))
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
            return role
    if isinstance(message, ChatMessage) and message.role.lower() in _ROLES:
        return _ROLES[message.role.lower()]
    raise InputError(f"ChatMRRAG does not read a {type(message).__name__} of this role")


def _image(block: dict[str, Any]) -> str | Path | bytes:
    """Return the image of a content block, in the forms that LangChain has for one."""
    kind = block.get("type")
    source: Any = None
    if kind == "image_url":
        url = block.get("image_url")
        source = url.get("url") if isinstance(url, dict) else url
    elif kind == "image":
        inner = block.get("source")
        place = inner if isinstance(inner, dict) else block
        data = place.get("base64") or place.get("data")
        source = f"data:;base64,{data}" if data else place.get("url")
    if not isinstance(source, str):
        raise InputError(
            f"a message holds a block of type {kind!r} that ChatMRRAG does not read; it takes "
            "text, and one image as base64, a data URL or a file URL"
        )
    image = QueryImage.read(image_source(source))
    assert isinstance(image.content, bytes)
    return image.content
