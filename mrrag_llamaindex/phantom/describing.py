"""Synthetic reports to be written, and open questions: the words of the phantom that describes.

The generator of `tokenizer` says yes or no. A second one writes a structured report, one statement
for each finding ("Nodule: present."), or the statements that are asked for. It reads the same
reports; what it writes are tokens of their own, so that a statement is two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPORT_QUESTION = "Describe the findings."
"""Asks for the whole report: one statement for each of `FINDINGS`, in their order."""

ASKING_WORD = "describe"
"""The one word of it that the describing phantom's vocabulary holds."""

HEADS = tuple(f"{finding.name}:" for finding in FINDINGS)
"""First half of a statement, one token each."""

VALUES = ("absent.", "present.")
"""Second half, one token each."""


def describe(findings: Sequence[bool], asked: Sequence[int] | None = None) -> str:
    """Return the statements about some findings, in their order; None: about all.

    Examples
    --------
    >>> describe((True, False, False, False, False, False, False, False), [0, 1])
    'Pleural effusion: present. Nodule: absent.'
    """
    places = range(len(FINDINGS)) if asked is None else sorted(asked)
    return " ".join(f"{HEADS[n].capitalize()} {VALUES[findings[n]]}" for n in places)


def open_question(asked: Sequence[int]) -> str:
    """Return the question that asks for the statements about some findings.

    Examples
    --------
    >>> open_question([3, 1])
    'Please report: nodule, cardiomegaly.'
    """
    return f"Please report: {', '.join(FINDINGS[n].name for n in sorted(asked))}."


def build_describing_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: the other phantom's words under their ids, then those of a report."""
    from tokenizers import AddedToken

    tokenizer = build_tokenizer()
    words = [AddedToken(word, normalized=True) for word in (ASKING_WORD, *HEADS, *VALUES)]
    tokenizer.add_tokens(words)
    return tokenizer
