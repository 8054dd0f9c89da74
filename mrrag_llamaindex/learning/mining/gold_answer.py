"""Gold answers: how confident logits are in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mrrag_llamaindex.generation.influence.teacher_forcing import log_probabilities


def renormalised(logits: torch.Tensor, gold: Sequence[int], other: Sequence[int]) -> float:
    """Probability of the gold word among two words of several spellings.

    Parameters
    ----------
    logits : torch.Tensor
        float32 (vocabulary,), of the first answer token.
    gold, other : sequence of int
        Token ids that spell the gold answer, and those of its opposite.

    Returns
    -------
    float
        p(gold) / (p(gold) + p(other)); as a difference of logarithms, so that it is defined even
        where both probabilities underflow.
    """
    difference = logits[list(gold)].logsumexp(0) - logits[list(other)].logsumexp(0)
    return float(torch.sigmoid(difference))


def mean_log_probability(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    """Mean log-probability of tokens under teacher forcing.

    Parameters
    ----------
    logits : torch.Tensor
        float32 (at least len(tokens) + 1, vocabulary): those of the last positions, the tokens'
        own included.
    tokens : sequence of int
        The last tokens of the sequence, at least one.

    Returns
    -------
    float
        (1 / n) sum_t log p(token_t | what stands before it), at most 0.
    """
    return float(log_probabilities(logits, tokens).mean())
