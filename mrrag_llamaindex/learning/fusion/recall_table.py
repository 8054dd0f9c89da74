"""Recall@1 of several weights on the same questions, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.statistics.bootstrap import (
    Interval,
    difference_interval,
    resampled_means,
    share_interval,
)

CHANCE = "chance"
"""Name of the row of a candidate drawn at random."""


@dataclass(frozen=True)
class RecallTable:
    """Recall@1 of several weights on the same questions.

    Attributes
    ----------
    recall : dict
        By name; ``chance`` is the share of right candidates, what a random one would reach.
    ci : dict
        95% intervals (percentile bootstrap over patients) of the same, and of the paired
        differences: learned minus ``equal``, minus the best single term, and, under their own
        names, ``gated-learned`` and ``four_terms-learned``.
    best_single : str
        The term that does best alone on the held-out patients: the hardest to beat.
    n : int
        Held-out questions.
    """

    recall: dict[str, float]
    ci: dict[str, tuple[float, float]]
    best_single: str
    n: int

    @classmethod
    def of(
        cls, hits: Mapping[str, NDArray[np.float64]], patients: Sequence[str], seed: int
    ) -> RecallTable:
        """Summarise hits (by name, one for each question) of questions of `patients`."""
        recall = {name: float(values.mean()) for name, values in hits.items()}
        best = max((name for name in ALL_TERMS if name in recall), key=lambda name: recall[name])
        pairs = [("learned", best), ("learned", "equal")]
        pairs += [(name, "learned") for name in ("four_terms", "gated") if name in hits]
        # One patient tells nothing of others: then a share may be anything.
        ci: dict[str, Interval] = {
            name: share_interval(resampled_means(values, patients, seed), patients) or (0.0, 1.0)
            for name, values in hits.items()
        }
        for one, other in pairs:
            means = resampled_means(hits[one] - hits[other], patients, seed)
            ci[f"{one}-{other}"] = difference_interval(means, patients) or (-1.0, 1.0)
        return cls(recall, ci, best, len(patients))

    def apart(self, one: str, other: str) -> bool:
        """Whether the two intervals do not overlap."""
        (low, high), (other_low, other_high) = self.ci[one], self.ci[other]
        return low > other_high or high < other_low

    def verdict(self, difference: str) -> str:
        """Return in words whether a paired difference of `ci` is more than noise."""
        low, high = self.ci[difference]
        return "more than noise" if low > 0 or high < 0 else "not more than noise"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; what goes beyond the paper stands under its own name."""
        beyond = [name for name in ("four_terms", "gated") if name in self.recall]
        apart = {*beyond, CHANCE}
        paper = {name: value for name, value in self.recall.items() if name not in apart}
        ci = {name: self.ci[name] for name in self.ci if name.partition("-")[0] not in apart}
        data: dict[str, Any] = {"recall_at_1": paper, "ci": ci, "n": self.n}
        if CHANCE in self.recall:
            data[CHANCE] = self.recall[CHANCE]
        for name in beyond:
            difference = f"{name}-learned"
            data[name] = {
                "recall_at_1": self.recall[name],
                "ci": self.ci[name],
                "minus_learned": self.recall[name] - self.recall["learned"],
                "minus_learned_ci": self.ci[difference],
                "verdict": self.verdict(difference),
            }
        return data
