"""The price of the naive layer search: one full forward pass per question, edge and window."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from mrrag_llamaindex.learning.layers.blocking import Asked, Knockout
from mrrag_llamaindex.learning.layers.edges import edges_of


class NaivePasses:
    """Time single full forward passes, drawn at random, and compare what they give.

    Parameters
    ----------
    knockout : Knockout
    rng : numpy.random.Generator
        Draws edge and layer.

    Attributes
    ----------
    timed : int
        Passes so far.
    difference : float
        Largest difference between their probabilities and those of the search.
    """

    def __init__(self, knockout: Knockout, rng: np.random.Generator) -> None:
        self.knockout = knockout
        self.rng = rng
        self.timed = 0
        self.seconds = 0.0
        self.difference = 0.0

    @property
    def mean(self) -> float:
        """Seconds of one pass; 0 if none was timed."""
        return self.seconds / self.timed if self.timed else 0.0

    def run(self, asked: Asked, changes: Mapping[str, Sequence[float]], count: int) -> None:
        """Time ``count`` passes of a question, of which the search found ``changes``."""
        edges = edges_of(asked.spans)
        for _ in range(max(0, count)):
            edge = edges[self.rng.integers(len(edges))]
            centre = int(self.rng.integers(self.knockout.depth))
            started = time.perf_counter()
            p = self.knockout.naive(asked, edge, centre)
            self.seconds += time.perf_counter() - started
            self.timed += 1
            ours = asked.probability * (1 + changes[edge.name][centre] / 100)
            self.difference = max(self.difference, abs(p - ours))
