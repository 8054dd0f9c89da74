"""Cut a text into sentences, as LlamaIndex's own data of English sentences has them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

from llama_index.core.utils import globals_helper


def sentence_spans(text: str) -> list[tuple[int, int]]:
    r"""Return the characters [start, stop) of every sentence, without blanks around it.

    Lines are cut first, as reports have them; within a line decides nltk's Punkt, trained on
    English, whose data LlamaIndex brings along. What holds no letter, as the number of a list,
    belongs to the sentence behind it, or before it at the end of a text.

    Examples
    --------
    >>> text = "Heart of 1.5 times normal size. No effusion.\n1. Nodule."
    >>> [text[start:stop] for start, stop in sentence_spans(text)]
    ['Heart of 1.5 times normal size.', 'No effusion.', '1. Nodule.']
    """
    spans: list[tuple[int, int]] = []
    waiting: int | None = None
    for start, stop in _pieces(text):
        if not any(character.isalpha() for character in text[start:stop]):
            waiting = start if waiting is None else waiting
            continue
        spans.append((start if waiting is None else waiting, stop))
        waiting = None
    if waiting is not None:
        spans = [*spans[:-1], (spans[-1][0] if spans else waiting, len(text.rstrip()))]
    return spans


def _pieces(text: str) -> list[tuple[int, int]]:
    """Sentences of every line."""
    breaks = [-1, *(n for n, character in enumerate(text) if character in "\r\n"), len(text)]
    lines = [(left + 1, right) for left, right in pairwise(breaks)]
    return [
        (start + left, start + right)
        for start, stop in lines
        for left, right in _punkt().span_tokenize(text[start:stop])
    ]


@cache
def _punkt() -> Any:
    globals_helper.wait_for_nltk_check()  # tells nltk where LlamaIndex has the data
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")
