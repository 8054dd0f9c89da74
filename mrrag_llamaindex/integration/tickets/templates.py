"""Read a template and the variables that a host fills it with, in any language and wording.

LlamaIndex's synthesizers and chat engines call ``predict``, ``stream`` and their asynchronous twins
with a template, and with the question, the context and an earlier answer as variables. Each value
is put between marks before the template is filled; where it stands among the template's own words
is then known, whatever the words are.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from typing_extensions import Self

from mrrag_llamaindex.integration.tickets.host_call import HostCall, Kind, turns_of_text
from mrrag_llamaindex.integration.tickets.host_prompts import (
    conversation_of,
    last_user,
    message_text,
    readable,
    stock_system_templates,
    stock_user_templates,
)
from mrrag_llamaindex.integration.tickets.markers import strip

_CONTEXT = ("context_str", "context_msg", "context_messages")
_NAMES = {
    "query_str": "question",
    "existing_answer": "answer",
    **dict.fromkeys(_CONTEXT, "context"),
}
"""What the host's variables hold."""


class CleanText(str):
    """A variable's value without markers, as observers of the host see it."""

    marked: str

    @classmethod
    def of(cls, value: str) -> Self:
        """Remove the markers from a value, and keep it as it was in ``marked``."""
        text = cls(strip(value))
        text.marked = value
        return text


class CleanMessages(list[ChatMessage]):
    """Messages of retrieved documents without markers, as observers of the host see them."""

    marked: str


def without_markers(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template's variables as others may see them."""
    return {name: _clean(value) for name, value in variables.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, (CleanText, CleanMessages)):
        return value
    if isinstance(value, str):
        return CleanText.of(value)
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if all(isinstance(item, str) for item in value):
        # simple_summarize hands over a list, which a template would write as Python does.
        return CleanText.of("\n\n".join(value))
    if not all(isinstance(item, ChatMessage) for item in value):
        return value
    messages = CleanMessages(map(without_marked_blocks, value))
    messages.marked = "\n\n".join(message_text(item) for item in value)
    return messages


def without_marked_blocks(message: ChatMessage) -> ChatMessage:
    """Return a message whose text holds no markers."""
    blocks = [
        TextBlock(text=strip(block.text)) if isinstance(block, TextBlock) else block
        for block in message.blocks
    ]
    return message.model_copy(update={"blocks": blocks})


Piece = tuple[str, str]
"""A name ("" for the template's own words) and the text that stands there."""


def read_template(
    variables: Mapping[str, Any], fill: Callable[..., Sequence[ChatMessage]]
) -> HostCall | None:
    """Take a filled template apart.

    Parameters
    ----------
    variables : mapping of str to value
        All that the template is filled with, from `without_markers`.
    fill : callable
        Takes variables by keyword and returns the template's messages.

    Returns
    -------
    HostCall or None
        None where neither a question nor a follow-up is among the variables: it is no template of
        a question, and its text has to be read as it is.
    """
    names = frozenset(variables)
    if {"question", "chat_history"} <= names:
        text = "\n".join(message_text(message) for message in fill(**variables))
        turns = turns_of_text(str(variables["chat_history"]))
        question = str(variables["question"]).strip()
        return HostCall("condense", question, history=turns, variables=names, text=text)
    if "query_str" not in names:
        return None
    key = secrets.token_hex(8)
    messages = fill(**{name: _mark(name, value, key) for name, value in variables.items()})
    pieces = [_pieces(message_text(message), key) for message in messages]
    last = last_user(messages)
    kind, before, question, after = _read_user(pieces[last])
    instructions, contexts = [], _contexts(pieces[last])
    for position, message in enumerate(messages):
        if message.role in (MessageRole.SYSTEM, MessageRole.DEVELOPER):
            instructions.append(_own_words(pieces[position]))
            contexts += _contexts(pieces[position])
    refine = "existing_answer" in names or "context_msg" in names
    texts = ["".join(_written(piece) for piece in row) for row in pieces]
    return HostCall(
        "refine" if refine else "answer" if names & set(_CONTEXT) else kind,
        (question or str(variables["query_str"])).strip(),
        tuple(contexts) or tuple(_marked(variables[n]) for n in _CONTEXT if n in names),
        "\n".join(text for text in instructions if text),
        before,
        after,
        conversation_of(messages[:last], texts[:last])[0],
        variables=names,
    )


def _marked(value: Any) -> str:
    return str(getattr(value, "marked", value))


def _mark(name: str, value: Any, key: str) -> Any:
    """Put a value between marks, under the name of what it holds."""
    if name not in _NAMES or not isinstance(value, (CleanText, CleanMessages)):
        return value
    text = f"<{key}:{name}>{value.marked}</{key}>"
    if isinstance(value, CleanMessages):
        return [ChatMessage(role=MessageRole.USER, content=text)]
    return text


def _pieces(text: str, key: str) -> list[Piece]:
    parts = re.split(rf"<{key}:(\w+)>(.*?)</{key}>", text, flags=re.DOTALL)
    words = [("", part) for part in parts[::3]]
    values = list(zip(parts[1::3], parts[2::3], strict=True))
    return [piece for pair in zip(words, [*values, ("", "")], strict=True) for piece in pair]


def _written(piece: Piece) -> str:
    """Return a piece as a conversation holds it: a person may write ``{query_str}`` too."""
    name, text = piece
    return f"{{{name}}}" if name else text


def _outline(pieces: Sequence[Piece]) -> str:
    """Return the own words with the names of what is held between them."""
    return "".join(f"{{{_NAMES[name]}}}" if name else own for name, own in pieces).strip()


@functools.cache
def _stock_outline(template: str) -> str:
    for name, held in _NAMES.items():
        template = template.replace(f"{{{name}}}", f"{{{held}}}")
    return " ".join(template.split())


def _read_user(pieces: Sequence[Piece]) -> tuple[Kind, str, str, str]:
    """Return kind, the application's words before the question, the question, and those after."""
    places = [place for place, (name, _) in enumerate(pieces) if name == "query_str"]
    if not places:
        return "plain", _words(pieces), "", ""
    question = pieces[places[-1]][1]
    outline = " ".join(_outline(pieces).split())
    if any(outline == _stock_outline(template) for _, template in stock_user_templates()):
        return "answer", "", question, ""
    before, after = _words(pieces[: places[-1]]), _words(pieces[places[-1] + 1 :])
    return "plain", before, question, after


def _own_words(pieces: Sequence[Piece]) -> str:
    """Return what the application itself says in a system message."""
    text = _outline(pieces)
    for _, template in stock_system_templates():
        words = map(re.escape, _stock_outline(template).split())
        match = re.match(r"\s*".join(words), text)
        if match:
            return text[match.end() :].strip()
    return _words(pieces).strip()


def _contexts(pieces: Sequence[Piece]) -> list[str]:
    return [text for name, text in pieces if name in _CONTEXT]


def _words(pieces: Sequence[Piece]) -> str:
    """Return a template's own words, without the labels of what is left out."""
    text = ""
    for place, (name, own) in enumerate(pieces):
        following = pieces[place + 1][0] if place + 1 < len(pieces) else ""
        if name == "query_str":
            text += own
        elif not name:
            head, line_break, label = own.rpartition("\n")
            labelled = following in (*_CONTEXT, "existing_answer")
            text += head + line_break if labelled and label.rstrip().endswith(":") else own
    return text if readable(text) else ""
