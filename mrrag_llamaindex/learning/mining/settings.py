"""What is mined: how candidates are found, how they are labelled, which questions are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from mrrag_llamaindex import defaults
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

Pool = Literal["mixed", "each_term", "fused"]
"""What retrieves the candidates of a question, see `MiningSettings`."""

MARGIN = 0.05
"""How far a negative stays below the positive. The paper takes the m least confident whatever they
are; where all candidates lead to the answer these are good documents, too (a third of the negatives
of 200 phantom questions; with this margin one in 250)."""


def label(
    confidence: Sequence[float], negatives: int, margin: float = MARGIN
) -> tuple[int, tuple[int, ...]]:
    """Return the positive and the negatives of one question.

    Parameters
    ----------
    confidence
        Of n candidates, best-ranked first.
    negatives
        m, the most negatives.
    margin
        See `MiningSettings`.

    Returns
    -------
    positive : int
        The most confident; of equal ones the best-ranked.
    negatives : tuple of int
        The m least confident, least first; of equal ones the best-ranked first, since it is the
        harder negative. Only those that are below the positive, and by the margin: a document
        that does as well (another copy of the same report, say) is no example of what to avoid.
        So a single candidate, or candidates that are all alike, give none.

    Examples
    --------
    >>> label([0.25, 0.75, 0.25, 0.75, 0.5], 2)
    (1, (0, 2))
    """
    best = max(confidence)
    order = sorted(range(len(confidence)), key=lambda place: (confidence[place], place))
    below = [n for n in order if confidence[n] < best and round(best - confidence[n], 9) >= margin]
    return list(confidence).index(best), tuple(below[:negatives])


@dataclass(frozen=True)
class MiningSettings:
    """What is mined.

    Parameters
    ----------
    weights : FusionWeights or QueryGatedWeights
        Weights that retrieve the candidates.
    candidates : int
        Documents tried per question, at least 2.
    pool : {"mixed", "each_term", "fused"}
        What retrieves them: the fused score alone, as in the paper; that and each of its terms in
        turn; or these for two thirds, and a third drawn by the seed. Among pairs that were all
        chosen for a high sum, one term is high where another is low, so the weights learned from
        them may describe that choice and not the corpus; and where all of them help, there is
        nothing to learn from.
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
    pool: Pool = "mixed"
    negatives: int = defaults.NEGATIVES
    margin: float = MARGIN
    questions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pool not in get_args(Pool):
            raise ValueError(
                f"pool is {self.pool!r}; it must be one of {', '.join(get_args(Pool))}"
            )
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
