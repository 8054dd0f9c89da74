"""The messages of a conversation: what each says, which are turns, and what cannot be read."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.images import read_image
from mrrag_llamaindex.integration.tickets.host_call import Turn

INSTRUCTING = frozenset({MessageRole.SYSTEM, MessageRole.DEVELOPER})
_ANSWERING = frozenset({MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL})
_TOOL = frozenset({MessageRole.TOOL, MessageRole.FUNCTION})


def message_text(message: ChatMessage) -> str:
    """Return the text of a message, its other blocks left out."""
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def last_user(messages: Sequence[ChatMessage]) -> int:
    """Return the position of the last user message.

    Raises
    ------
    InputError
        If there is none, or something stands behind it.
    EvidenceError
        If that is the result of a tool.
    """
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == MessageRole.USER:
            _nothing_behind(messages[index + 1 :])
            return index
    raise InputError("the messages hold no user message, so nothing is asked")


def _nothing_behind(messages: Sequence[ChatMessage]) -> None:
    if any(message.role in _TOOL or calls_tool(message) for message in messages):
        raise EvidenceError(
            "a tool was called in this conversation to answer the last question, and this model "
            "reads documents and an image, and no results of tools: let the agent have another "
            "model, and the engine or chain with this model as its tool"
        )
    for message in messages:
        raise InputError(
            f"a message of role {message.role.value!r} stands behind the question, where this "
            "model's own answer begins: say in a system message, or with the question, how it is "
            "to be answered"
        )


def calls_tool(message: ChatMessage) -> bool:
    """Whether a message is a model's call of a tool."""
    blocks = any(getattr(block, "block_type", "") == "tool_call" for block in message.blocks)
    return blocks or bool(message.additional_kwargs.get("tool_calls"))


def require_readable(messages: Sequence[ChatMessage], last: int) -> None:
    """Refuse by name what the question, and what instructs the model, hold beside text.

    Earlier turns with such parts are not refused: they are left out, see `conversation_of`.

    Parameters
    ----------
    messages : sequence of ChatMessage
    last : int
        Position of the question.

    Raises
    ------
    InputError
        If it is anything but the question's one image.
    """
    for position, message in enumerate(messages):
        asked = position == last
        if not asked and message.role not in INSTRUCTING:
            continue
        where = "the question" if asked else f"a message of role {message.role.value!r}"
        for block in message.blocks:
            if isinstance(block, TextBlock) or (asked and isinstance(block, ImageBlock)):
                continue
            raise InputError(
                f"{where} holds a part of type {type(block).__name__}, which this model does not "
                "read: it reads text, and one image in the message of the question"
            )
        if message.additional_kwargs:
            names = ", ".join(sorted(map(repr, message.additional_kwargs)))
            raise InputError(
                f"{where} has additional_kwargs {names}, and this model has no options that go "
                "with a message: leave them out"
            )


def image_of(message: ChatMessage) -> QueryImage | None:
    """Return the image of a message.

    Raises
    ------
    InputError
        If there are several.
    """
    images = [block for block in message.blocks if isinstance(block, ImageBlock)]
    if len(images) > 1:
        raise InputError(
            f"the message holds {len(images)} images, which could be of several patients: ask "
            'about those of one study inside "with query_image([...])"'
        )
    return read_image(images[0]) if images else None


def recalled_by_memory(messages: Sequence[ChatMessage], holds_context: Sequence[bool]) -> set[int]:
    """Return the positions of system messages that a chat memory puts among the earlier messages.

    A summary of earlier turns, or facts of them, may be about any image. Memories hand them over as
    system messages, which stand behind the application's own: behind the one that holds the
    documents, or behind a message that is none.
    """
    positions = set()
    behind = False
    for position, message in enumerate(messages):
        if message.role not in INSTRUCTING or holds_context[position]:
            behind = True
        elif behind:
            positions.add(position)
    return positions


def without_memory(text: str) -> str:
    """Return a message without what LlamaIndex's memories of several parts write into it."""
    return _recalled().sub("", text, count=1)


@functools.cache
def _recalled() -> re.Pattern[str]:
    from llama_index.core.memory import simple_composable_memory as composed

    intro = re.escape(composed.DEFAULT_INTRO_HISTORY_MESSAGE)
    outro = re.escape(composed.DEFAULT_OUTRO_HISTORY_MESSAGE)
    blocks = r"\A\s*<memory>.*?</memory>\s*"
    return re.compile(rf"{blocks}|\s*{intro}.*?{outro}\s*", re.DOTALL)


class Conversation(NamedTuple):
    """What stands before a question.

    Attributes
    ----------
    turns : tuple of Turn
        Questions that were answered, each with the image in force then.
    image : QueryImage or None
        The last one.
    left_over : int
        Messages that belong to no turn, of which it is not known what image they are about: a
        question without an answer, a summary, what a tool said, a question about a file.
    """

    turns: tuple[Turn, ...]
    image: QueryImage | None
    left_over: int


def study_of(message: ChatMessage) -> QueryImage | None:
    """Return the images of a message that a person wrote: those of one study."""
    images = [block for block in message.blocks if isinstance(block, ImageBlock)]
    return read_image(images) if images else None


def conversation_of(
    messages: Sequence[ChatMessage],
    texts: Sequence[str],
    images: Callable[[ChatMessage], QueryImage | None] = image_of,
) -> Conversation:
    """Read the messages before a question; those that instruct are not of the conversation.

    Parameters
    ----------
    messages : sequence of ChatMessage
    texts : sequence of str
        What each of them says.
    images : callable
        What a user's message is about: `image_of` where a host may have put images into it,
        `study_of` where the person did.
    """
    turns: list[Turn] = []
    question: str | None = None
    image: QueryImage | None = None
    spoken = [message for message in messages if message.role not in INSTRUCTING]
    for message, text in zip(messages, texts, strict=True):
        if message.role == MessageRole.USER:
            question = text.strip() if _is_plain(message) else None
            image = images(message) or image
        elif message.role in _TOOL or calls_tool(message):
            question = None
        elif message.role in _ANSWERING and question is not None:
            if _is_words(message):
                turns.append(Turn(question, text.strip(), image))
            question = None
    return Conversation(tuple(turns), image, len(spoken) - 2 * len(turns))


def _is_plain(message: ChatMessage) -> bool:
    return all(isinstance(block, (TextBlock, ImageBlock)) for block in message.blocks)


def _is_words(message: ChatMessage) -> bool:
    # What a model thought is no part of what it said.
    return all(block.block_type in ("text", "thinking") for block in message.blocks)
