"""Questions that leave no room for documents, refused before the host counts."""

from __future__ import annotations

from typing import Any

from llama_index.core.utils import get_tokenizer

from mrrag_llamaindex.errors import PromptError
from mrrag_llamaindex.files.rows import is_unicode

_HOST_TOKENS = 292 + 500 + 64
"""What LlamaIndex leaves room for: the longest of its own templates (that for citations in a chat),
an earlier answer (the padding of its refining synthesizers), and a piece of a document."""

_SHORT = 64
"""Tokens of a question that is never refused here: a small window may have room for a shorter
template."""


def question_room(llm: Any) -> int:
    """Return the tokens that a question may have, as LlamaIndex counts them."""
    known = llm.metadata
    return max(_SHORT, int(known.context_window - known.num_output - _HOST_TOKENS))


def require_room(question: str, room: int | None) -> None:
    """Refuse a question that leaves no room for documents, or that is no valid Unicode.

    LlamaIndex packs documents by counting with a tokenizer of its own, whatever the model's, and
    raises a `ValueError` that says nothing of the question.

    Parameters
    ----------
    question : str
    room : int or None
        From `question_room`; None: nobody counts.

    Raises
    ------
    PromptError
        The message does not repeat the question.
    """
    if not is_unicode(question):
        raise PromptError("the question holds characters that are not valid Unicode text")
    # No token has less than one byte: a short question needs no counting.
    if room is None or len(question.encode()) <= room:
        return
    tokens = len(get_tokenizer()(question))
    if tokens > room:
        raise PromptError(
            f"the question has {tokens} tokens, and this model's window leaves {room} for it "
            "beside documents and answer; shorten the question, or use a model with a longer window"
        )
