"""Read a template and the variables that a host fills it with, in any language and wording.

LlamaIndex's synthesizers and chat engines call ``predict``, ``stream`` and their asynchronous twins
with a template, and with the question, the context and an earlier answer as variables. Where each
value stands among the template's own words is known, whatever the words are; see `written_out`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, TextBlock
from typing_extensions import Self

from mrrag_llamaindex.integration.tickets.conversation import (
    INSTRUCTING,
    conversation_of,
    image_of,
    last_user,
    message_text,
    recalled_by_memory,
    require_readable,
)
from mrrag_llamaindex.integration.tickets.host_call import (
    HostCall,
    Kind,
    left_over_of_text,
    turns_of_text,
)
from mrrag_llamaindex.integration.tickets.host_prompts import (
    readable,
    refuse_json,
    stock_system_templates,
    stock_user_templates,
)
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.written_out import (
    CONTEXT,
    NAMES,
    Row,
    contexts_of,
    marked_text,
    questions_of,
    rows_of,
)


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


def read_template(
    variables: Mapping[str, Any], fill: Callable[..., Sequence[ChatMessage]], template: Any = None
) -> HostCall | None:
    """Take a filled template apart.

    Parameters
    ----------
    variables : mapping of str to value
        All that the template is filled with, from `without_markers`.
    fill : callable
        Takes variables by keyword and returns the template's messages.
    template : BasePromptTemplate, optional
        For errors that say where in it something is wrong.

    Returns
    -------
    HostCall or None
        None where neither a question nor a follow-up is among the variables: it is no template of
        a question, and its text has to be read as it is.

    Raises
    ------
    InputError
        If the template leaves out question or context, or changes what they say.
    """
    names = frozenset(variables)
    if {"question", "chat_history"} <= names:
        text = "\n".join(message_text(message) for message in fill(**variables))
        history = str(variables["chat_history"])
        question = str(variables["question"]).strip()
        return HostCall(
            "condense",
            question,
            history=turns_of_text(history),
            variables=names,
            text=text,
            left_over=left_over_of_text(history),
        )
    if "query_str" not in names:
        return None
    messages, rows = rows_of(variables, fill, template)
    last = last_user(messages)
    require_readable(messages, last)
    refuse_json(["".join(own for name, own in row if not name) for row in rows])
    own = _messages_of_the_template(messages, rows, last)
    kind, before, question, after = _read_user(rows[last])
    recalled = recalled_by_memory(messages, [bool(contexts_of(row)) for row in rows])
    instructions, contexts = [], contexts_of(rows[last])
    for position, message in enumerate(messages):
        if message.role in INSTRUCTING and position not in recalled:
            instructions.append(_own_words(rows[position]))
            contexts += contexts_of(rows[position])
        elif position in own:
            instructions.append(_words(rows[position]).strip())
            contexts += contexts_of(rows[position])
    refine = "existing_answer" in names or "context_msg" in names
    spoken = [place for place in range(last) if place not in own]
    texts = ["".join(map(_written, rows[place])) for place in spoken]
    earlier = conversation_of([messages[place] for place in spoken], texts)
    return HostCall(
        "refine" if refine else "answer" if names & set(CONTEXT) else kind,
        (question or str(variables["query_str"])).strip(),
        tuple(contexts) or tuple(marked_text(variables[n]) for n in CONTEXT if n in names),
        "\n".join(text for text in instructions if text),
        before,
        after,
        earlier.turns,
        image_of(messages[last]),
        variables=names,
        left_over=earlier.left_over + len(recalled),
    )


def _messages_of_the_template(
    messages: Sequence[ChatMessage], rows: Sequence[Row], last: int
) -> set[int]:
    """Return which earlier messages are the template's own, and not of the conversation.

    They hold what the last message and the instructions lack: the context or the question. In
    others the words ``{query_str}`` or ``{context_str}`` are what a person wrote.
    """
    places = [p for p, message in enumerate(messages) if message.role in INSTRUCTING or p == last]
    own: set[int] = set()
    for holds in (contexts_of, questions_of):
        if not any(holds(rows[place]) for place in places):
            own |= {place for place in range(last) if holds(rows[place])}
    return own


def _written(piece: tuple[str, str]) -> str:
    """Return a piece as a conversation holds it: a person may write ``{query_str}`` too."""
    name, text = piece
    return f"{{{name}}}" if name else text


def _outline(pieces: Row) -> str:
    """Return the own words with the names of what is held between them."""
    return "".join(f"{{{NAMES[name]}}}" if name else own for name, own in pieces).strip()


@functools.cache
def _stock_outline(template: str) -> str:
    for name, held in NAMES.items():
        template = template.replace(f"{{{name}}}", f"{{{held}}}")
    return " ".join(template.split())


def _read_user(pieces: Row) -> tuple[Kind, str, str, str]:
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


def _own_words(pieces: Row) -> str:
    """Return what the application itself says in a system message."""
    text = _outline(pieces)
    for _, template in stock_system_templates():
        words = map(re.escape, _stock_outline(template).split())
        match = re.match(r"\s*".join(words), text)
        if match:
            return text[match.end() :].strip()
    return _words(pieces).strip()


def _words(pieces: Row) -> str:
    """Return a template's own words, without the labels of what is left out."""
    text = ""
    for place, (name, own) in enumerate(pieces):
        following = pieces[place + 1][0] if place + 1 < len(pieces) else ""
        if name == "query_str":
            text += own
        elif not name:
            head, line_break, label = own.rpartition("\n")
            labelled = following in (*CONTEXT, "existing_answer")
            text += head + line_break if labelled and label.rstrip().endswith(":") else own
    return text if readable(text) else ""
