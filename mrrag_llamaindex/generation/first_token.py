"""Probability of yes and no at the first answer token."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from mrrag_llamaindex.errors import ModelError


class FirstTokenProbe(LogitsProcessor):
    """Record the distribution over the first generated token; change nothing.

    One probe serves one call of ``generate``.

    Parameters
    ----------
    yes_ids, no_ids : list of int
        See `spellings`.

    Attributes
    ----------
    p_yes, p_no : list of float or None
        One value per row, after the first step.
    """

    def __init__(self, yes_ids: list[int], no_ids: list[int]) -> None:
        self.yes_ids = yes_ids
        self.no_ids = no_ids
        self.p_yes: list[float] | None = None
        self.p_no: list[float] | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Record on the first step; return ``scores`` (batch, vocabulary) as they are."""
        if self.p_yes is None:
            probabilities = scores.float().softmax(dim=-1)
            self.p_yes = probabilities[:, self.yes_ids].sum(dim=-1).tolist()
            self.p_no = probabilities[:, self.no_ids].sum(dim=-1).tolist()
        return scores

    def row(self, index: int) -> tuple[float, float]:
        """Return (p_yes, p_no) of one row."""
        if self.p_yes is None or self.p_no is None:
            raise ModelError("nothing was generated, so the first answer token is not known")
        return self.p_yes[index], self.p_no[index]


def spellings(tokenizer: Any, word: str) -> list[int]:
    """Ids of every token that spells ``word``, whatever its case or leading blank."""
    marks = "\u2581\u0120 "  # the blank of sentencepiece and of byte-level BPE
    return sorted(
        index
        for token, index in tokenizer.get_vocab().items()
        if token.strip(marks).lower() == word
    )
