"""Turn marks and control tokens in text from outside, which must stay text.

A report, a question or an earlier answer may spell out "[/INST]", "USER:" or "<image>". Written
apart it stays readable, opens no turn and shifts no image feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate

_TAG: Final = re.compile(r"<+[^<>\s]+>+|\[+[^\[\]\s]+\]+")
_LABEL: Final = re.compile(r"(?:#+[ \t]*)?\w+:(?=\s|$)")
_WIDTH: Final = 0xFEE0
"""From an ASCII character to its full-width form, which some tokenizers read as the same."""

_UNSEEN: Final = "[\u00ad\u200b-\u200f\u2060\ufeff]*"
"""Characters without width, which some tokenizers drop."""


def turn_marks(template: PromptTemplate) -> set[str]:
    """Return what opens and ends a turn of a template.

    Tags anywhere in its pieces ("<|im_start|>", "[/INST]"), and labels ("USER:", "### Answer:").

    Examples
    --------
    >>> sorted(turn_marks(PromptTemplate()))
    ['</s>', '[/INST]', '[INST]']
    """
    pieces = (
        template.opening.replace("<image>", " "),
        template.closing,
        template.answer_opening,
        template.turn_end,
        template.turn_opening,
    )
    return {mark for piece in pieces for kind in (_TAG, _LABEL) for mark in kind.findall(piece)}


class Marks:
    """What no text from outside may spell out, for one tokenizer and template.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    template : PromptTemplate
    image_token : str or None
    """

    def __init__(self, tokenizer: Any, template: PromptTemplate, image_token: str | None) -> None:
        strict = {*tokenizer.all_special_tokens, *turn_marks(template), image_token or ""}
        added = {token for token in tokenizer.get_added_vocab() if token.strip()} - strict
        forms = [(mark, _loosely(mark)) for mark in strict if mark.strip()]
        forms += [(token, re.escape(token)) for token in added]
        longest_first = sorted(forms, key=lambda form: len(form[0]), reverse=True)
        self._pattern = re.compile("|".join(pattern for _, pattern in longest_first) or r"(?!)")
        self._longest = max((len(mark) for mark, _ in forms), default=0)

    def apart(self, text: str) -> str:
        """Return the text with a blank in every mark."""
        return self._pattern.sub(lambda match: _broken(match[0]), text)

    def cross(self, before: str, after: str) -> bool:
        """Return whether a mark stands across the seam of two texts."""
        tail = before[-2 * self._longest :] if before else ""
        seam = len(tail)
        joined = tail + after[: 2 * self._longest]
        return any(match.start() < seam < match.end() for match in self._overlapping(joined, seam))

    def _overlapping(self, text: str, seam: int) -> Iterable[re.Match[str]]:
        for start in range(seam):
            if match := self._pattern.match(text, start):
                yield match


def _loosely(mark: str) -> str:
    """Return a pattern that matches a mark in its full-width forms, too, and with unseen signs."""
    return _UNSEEN.join(
        f"[{re.escape(c)}{chr(ord(c) + _WIDTH)}]" if "!" <= c <= "~" else re.escape(c) for c in mark
    )


def _broken(mark: str) -> str:
    # A label keeps its word whole: "USER :".
    place = len(mark) - 1 if mark[-1] in ":：" else 1
    return f"{mark[:place]} {mark[place:]}"
