"""What a template does with a value: writes it out whole, rewrites it, or leaves it out.

Filters, conditions and functions of a template must work on the text itself, and where it stands
among the template's words must be known all the same. A value is therefore the text to everything
that reads it, and something else (`Whole.written`) where it is written out. Where a template
rewrites it (a filter, a function that makes a list of it), the markers in it go through the same
rewriting. If they come out with the words that a reader without markers gets, the documents are
known; otherwise nothing can be known of them, and the template is refused.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.tickets.conversation import message_text
from mrrag_llamaindex.integration.tickets.markers import (
    holds_whole_documents,
    labels_inside,
    marked_range,
    strip,
    with_marked_ends,
)

CONTEXT = ("context_str", "context_msg", "context_messages")
NAMES = {
    "query_str": "question",
    "existing_answer": "answer",
    **dict.fromkeys(CONTEXT, "context"),
}
"""What the host's variables hold."""


class Whole(str):
    """A text that writes something else where a template writes it out whole.

    Attributes
    ----------
    written : str
    """

    written: str

    @classmethod
    def of(cls, text: str, written: str) -> Self:
        """Return ``text``, which comes out as ``written``."""
        value = cls(text)
        value.written = written
        return value

    def __str__(self) -> str:
        return self.written

    def __format__(self, spec: str) -> str:
        # A width or precision rewrites the text.
        return format(str.__str__(self), spec) if spec else self.written


def marked_text(value: Any) -> str:
    """Return a variable's text with its markers."""
    return str(getattr(value, "marked", value))


Row = list[tuple[str, str]]
"""The pieces of a message: a name ("" for the template's own words) and what stands there."""


def rows_of(
    variables: Mapping[str, Any], fill: Callable[..., Sequence[ChatMessage]], template: Any
) -> tuple[Sequence[ChatMessage], list[Row]]:
    """Fill a template, and return its messages and the pieces of each.

    Question or context are among the pieces unless the template does not mention them.

    Raises
    ------
    InputError
        If the template changes what they say.
    """
    key = secrets.token_hex(8)
    tokens = {name: _with_token(name, value, key) for name, value in variables.items()}

    def filled(**values: Any) -> list[Row]:
        messages = fill(**{**tokens, **values})
        return [_pieces(message_text(message), key, variables) for message in messages]

    messages = fill(**tokens)
    rows = placed = [_pieces(message_text(message), key, variables) for message in messages]
    plain = _words(filled(**variables))
    if plain != _words(placed) and plain != _words(filled(**variables)):
        plain = _words(placed)  # it writes the time, for example
    names = [name for name in CONTEXT if marked_text(variables.get(name, "")).strip()]
    if names and not (any(map(contexts_of, placed)) and plain == _words(placed)):
        ends = f"[[{key}(]]", f"[[{key})]]"
        values = {name: with_marked_ends(marked_text(variables[name])) for name in names}
        marked = filled(**{name: value.join(ends) for name, value in values.items()})
        if _texts(marked) != _texts(placed):
            rows = [_with_context(row, ends) for row in marked]
            others = "".join(text for row in rows for text in questions_of(row))
            text, value = "".join(_texts(rows)), "".join(values.values())
            whole = holds_whole_documents(text, value, others)
            if not (whole and any(map(contexts_of, rows)) and plain == _words(rows)):
                if plain != _words(filled(**{**variables, "query_str": tokens["query_str"]})):
                    raise changes_question("query_str", template)
                raise changes_documents(names[0], template)
    question = str(variables["query_str"]).strip()
    if not any(map(questions_of, rows)) and _texts(filled(query_str=key)) != _texts(placed):
        rows = [_with_question(row, question) for row in rows]
        if not any(map(questions_of, rows)):
            raise changes_question("query_str", template)
    if plain != _words(rows):
        raise changes_question("query_str", template)
    return messages, rows


def _texts(rows: Sequence[Row]) -> list[str]:
    return ["".join(text for _, text in row) for row in rows]


def _words(rows: Sequence[Row]) -> list[list[str]]:
    return [strip(text).split() for text in _texts(rows)]


def _with_token(name: str, value: Any, key: str) -> Any:
    """Let a value be written out as a token with the name of what it holds."""
    if name not in NAMES or not hasattr(value, "marked"):
        return value
    token = f"[[{key}:{name}]]"
    if isinstance(value, list):
        return [ChatMessage(role=MessageRole.USER, content=token)]
    return Whole.of(value, token)


def _pieces(text: str, key: str, variables: Mapping[str, Any]) -> Row:
    names_and_words = re.split(rf"\[\[{key}:(\w+)\]\]", text)
    pieces: Row = [("", names_and_words[0])]
    for name, words in zip(names_and_words[1::2], names_and_words[2::2], strict=True):
        pieces += [(name, marked_text(variables[name])), ("", words)]
    return pieces


def _with_context(row: Row, ends: tuple[str, str]) -> Row:
    """Find context that the template rewrote among what seems to be its own words."""
    pieces: Row = []
    for name, text in row:
        text = text if name else labels_inside(text)
        found = None if name else marked_range(text, ends)
        if found is None:
            pieces.append((name, text))
        else:
            start, stop = found
            context = text[start:stop].replace(ends[0], "").replace(ends[1], "")
            pieces += [("", text[:start]), (CONTEXT[0], context), ("", text[stop:])]
    return pieces


def _with_question(row: Row, question: str) -> Row:
    """Find the question where the template wrote it as a part of a longer text."""
    pieces: Row = []
    for name, text in row:
        before, found, after = text.rpartition(question)
        if name or not found:
            pieces.append((name, text))
        else:
            pieces += [("", before), ("query_str", question), ("", after)]
    return pieces


def contexts_of(row: Row) -> list[str]:
    """Return what stands where context goes."""
    return [text for name, text in row if name in CONTEXT]


def questions_of(row: Row) -> list[str]:
    """Return what stands where the question goes."""
    return [text for name, text in row if name == "query_str"]


def tells_documents(texts: Sequence[str], plain: Sequence[str], marked: str) -> bool:
    """Whether the documents of ``marked`` are known in what a template made of them.

    Parameters
    ----------
    texts, plain : sequence of str
        The template's messages, with markers and filled without them.
    marked : str
        The documents, with their markers.
    """
    text, others = "\n".join(texts), "\n".join(plain)
    same = [strip(one).split() for one in texts] == [strip(one).split() for one in plain]
    return same and text != others and holds_whole_documents(text, marked, others)


def changes_documents(name: str, template: Any = None) -> InputError:
    """Return the error for a template in which the words of documents are lost."""
    return InputError(
        f"the template does not write out {{{name}}} whole, or changes its letters"
        f"{_where(name, template)}, so it is not known which documents the model would read: each "
        "of them is raised by its score, and answers name them. Write all of it into the template; "
        "choose documents with similarity_top_k or a filter of the retriever, and change their "
        "words before, in a postprocessor or compressor"
    )


def changes_question(name: str, template: Any = None) -> InputError:
    """Return the error for a template that changes the words of the question."""
    return InputError(
        f"the template changes the words of the question, {{{name}}}{_where(name, template)}: the "
        "model would be asked something else than the documents were retrieved for. Write "
        f"{{{name}}} into the template as it is; what is the same for every question may stand "
        "beside it"
    )


def _where(name: str, template: Any) -> str:
    """Quote where a template mentions a variable; its own words, which hold no data, alone."""
    if name in (getattr(template, "function_mappings", None) or {}):
        return f" (function_mappings[{name!r}])"
    get = getattr(template, "get_template", None)
    parts = [getattr(message, "prompt", None) for message in getattr(template, "messages", ())]
    texts = [getattr(part, "template", "") for part in (template, *parts)]
    text = str(get()) if get else "\n".join(map(str, texts))
    word = rf"\b{re.escape(name)}\b"
    pattern = rf"\{{\{{[^{{}}\n]*{word}[^{{}}\n]*\}}\}}|\{{%[^{{}}\n]*{word}[^{{}}\n]*%\}}"
    found = list(dict.fromkeys(re.findall(pattern, text)))
    return f" ({', '.join(found)})" if found else ""
