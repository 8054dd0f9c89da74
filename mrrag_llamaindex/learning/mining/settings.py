"""What is mined: how candidates are found, how they are labelled, which questions are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mrrag_llamaindex import defaults
from mrrag_llamaindex.learning.mining.labels import MARGIN
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.question_table import GoldQuestion


@dataclass(frozen=True)
class MiningSettings:
    """What is mined.

    Parameters
    ----------
    weights : FusionWeights or QueryGatedWeights
        Weights that retrieve the candidates.
    candidates : int
        Documents tried per question, at least 2.
    pool : {"fused", "each_term"}
        What retrieves them: the fused score alone, as in the paper, or that and each of its three
        terms in turn. Among pairs that were all chosen for a high sum, one term is high where
        another is low, so the weights learned from them may describe that choice and not the
        corpus.
    negatives : int
        m, the most negatives of one question.
    margin : float
        Least distance of a negative's confidence from the positive's, see `MARGIN`; 0 is the
        paper's rule.
    questions : int or None
        So many of the questions, drawn by the seed; None: all of them, in their order.
    seed : int

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    weights: AnyWeights = field(default_factory=FusionWeights)
    candidates: int = defaults.CANDIDATES
    pool: Literal["fused", "each_term"] = "fused"
    negatives: int = defaults.NEGATIVES
    margin: float = MARGIN
    questions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pool not in ("fused", "each_term"):
            raise ValueError(f'pool is {self.pool!r}; it must be "fused" or "each_term"')
        least = {"candidates": 2, "negatives": 1, "margin": 0, "questions": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} is {value}; it must be at least {low}")

    def drawn(self, questions: Sequence[GoldQuestion]) -> list[GoldQuestion]:
        """Return the questions to mine, in their order."""
        if self.questions is None or self.questions >= len(questions):
            return list(questions)
        rng = np.random.default_rng(self.seed)
        places = rng.permutation(len(questions))[: self.questions]
        return [questions[place] for place in sorted(places.tolist())]
