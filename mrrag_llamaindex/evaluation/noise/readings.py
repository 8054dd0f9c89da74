"""What prompts under one policy gave: the first answer token, and the attention to documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.data.parsing import Verdict
from mrrag_llamaindex.evaluation.noise.attention_share import ROWS


@dataclass(frozen=True, eq=False)
class Readings:
    """What one variant gave, in the order of the prompts.

    Attributes
    ----------
    verdicts : tuple of str
        "yes", "no" or "other": what the likeliest first answer token says.
    p_yes, p_no : ndarray, shape (n,)
        Probability of the first answer token being a spelling of yes (no).
    masses : ndarray, shape (n, 2, layers, documents)
        See `mrrag_llamaindex.evaluation.noise.attention_share`.
    """

    verdicts: tuple[Verdict, ...]
    p_yes: NDArray[np.float64]
    p_no: NDArray[np.float64]
    masses: NDArray[np.float64]


class ReadingsBuffer:
    """Readings of one variant while batches come in, in any order."""

    def __init__(self, count: int, depth: int, documents: int) -> None:
        self.verdicts: list[Verdict] = ["other"] * count
        self.p_yes, self.p_no = np.zeros(count), np.zeros(count)
        self.masses = np.zeros((count, len(ROWS), depth, documents))

    def write(self, rows: list[int], first: tuple[Any, Any, Any]) -> None:
        """Take verdicts and probabilities of some rows."""
        for row, verdict in zip(rows, first[0], strict=True):
            self.verdicts[row] = verdict
        self.p_yes[rows], self.p_no[rows] = first[1], first[2]

    def readings(self) -> Readings:
        """Return what has come in."""
        return Readings(tuple(self.verdicts), self.p_yes, self.p_no, self.masses)
