"""Messages of a conversation, as chat interfaces hand them over, read as one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.conversation import (
    INSTRUCTING,
    conversation_of,
    last_user,
    message_text,
    recalled_by_memory,
    require_readable,
    study_of,
)

if TYPE_CHECKING:
    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.integration.tickets.host_call import Turn


@dataclass(frozen=True)
class Message:
    """One message.

    Parameters
    ----------
    role : str
        As OpenAI's interface names it: system, developer, user, assistant, tool, function.
    text : str
    images : tuple of bytes
        Encoded files: those of one study.
    calls_tool : bool
        Whether the model called a tool in it.
    """

    role: str
    text: str
    images: tuple[bytes, ...] = ()
    calls_tool: bool = False


@dataclass(frozen=True)
class Question:
    """The last question of a conversation, and what stands before it.

    Attributes
    ----------
    text : str
    image : QueryImage or None
        That of its own message, else the last one before.
    instructions : str
        What the application says in system messages.
    history : tuple of Turn
    left_over : int
        Messages that belong to no turn.
    """

    text: str
    image: QueryImage | None
    instructions: str
    history: tuple[Turn, ...]
    left_over: int


def read_conversation(
    messages: Sequence[Message], reading: ReadingOptions | None = None
) -> Question:
    """Take a conversation apart; which turns reach the prompt is decided where it is built.

    Parameters
    ----------
    messages : sequence of Message
    reading : ReadingOptions, optional
        How the image of the question is read.

    Raises
    ------
    InputError
        If a role is unknown, or nothing is asked.
    EvidenceError
        If the question is the result of a tool.
    ImageError
        If an image is empty, or one was given twice.
    """
    known = [_chat_message(message) for message in messages]
    last = last_user(known)
    own = messages[last].images
    require_readable(known, last)
    texts = [message_text(message) for message in known]
    # A summary of earlier turns, written by a client's memory, may be about any image.
    recalled = recalled_by_memory(known[:last], [False] * last)
    instructions = [
        text
        for position, (message, text) in enumerate(zip(known, texts, strict=True))
        if message.role in INSTRUCTING and position not in recalled
    ]
    earlier = conversation_of(known[:last], texts[:last], study_of)
    image = QueryImage.study(own) if own else earlier.image
    if image is not None and reading is not None:
        image = QueryImage.study([QueryImage.read(one.content, reading) for one in image.views])
    return Question(
        texts[last].strip(),
        image,
        "\n".join(filter(None, instructions)),
        earlier.turns,
        earlier.left_over + len(recalled),
    )


def _chat_message(message: Message) -> ChatMessage:
    try:
        role = MessageRole(message.role)
    except ValueError:
        raise InputError(f"there is no role {message.role!r}") from None
    blocks = [TextBlock(text=message.text), *(ImageBlock(image=data) for data in message.images)]
    extra = {"tool_calls": True} if message.calls_tool else {}
    return ChatMessage(role=role, blocks=blocks, additional_kwargs=extra)
