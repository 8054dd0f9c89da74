"""What prompts under one policy gave: the first answer token, and the attention to documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.parsing import Verdict
from mrrag_llamaindex.evaluation.noise.attention_share import ROWS


@dataclass(frozen=True, eq=False)
class Readings:
    """What one variant gave, in the order of the prompts.

    Attributes
    ----------
    verdicts : list of str
        "yes", "no" or "other": what the likeliest first answer token says.
    p_yes, p_no : ndarray, shape (n,)
        Probability of the first answer token being a spelling of yes (no).
    masses : ndarray, shape (n, 2, layers, documents)
        See `mrrag_llamaindex.evaluation.noise.attention_share`.
    """

    verdicts: list[Verdict]
    p_yes: NDArray[np.float64]
    p_no: NDArray[np.float64]
    masses: NDArray[np.float64]

    @classmethod
    def blank(cls, count: int, depth: int, documents: int) -> Readings:
        """Return readings to be filled in, batch by batch in any order."""
        masses = np.zeros((count, len(ROWS), depth, documents))
        return cls(["other"] * count, np.zeros(count), np.zeros(count), masses)
