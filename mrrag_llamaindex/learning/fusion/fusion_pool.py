"""Comparisons of several draws of data as one: their questions together, their weights averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.comparison import FusionComparison
from mrrag_llamaindex.learning.fusion.recall_table import RecallTable
from mrrag_llamaindex.mcr.weights import ALL_TERMS, TERMS


@dataclass(frozen=True)
class PooledComparison:
    """What learning is worth over several draws of data.

    Attributes
    ----------
    weights : dict
        By term, the mean of the learned weights.
    spread : dict
        By term, their standard deviation over the draws (0 for one).
    shares : dict
        By term, the mean of `FusionComparison.shares`.
    four_terms : dict or None
        By term, the mean of the four weights.
    table : RecallTable
        Of all held-out questions; a patient belongs to one draw.
    """

    weights: dict[str, float]
    spread: dict[str, float]
    shares: dict[str, float]
    four_terms: dict[str, float] | None
    table: RecallTable

    @classmethod
    def of(cls, comparisons: Sequence[FusionComparison], *, seed: int = 0) -> PooledComparison:
        """Pool comparisons that tried the same weights; `seed` is that of the bootstrap.

        Raises
        ------
        InputError
            If there are none, or they did not try the same.
        """
        if not comparisons or len({tuple(made.hits) for made in comparisons}) > 1:
            raise InputError("comparisons can be pooled if there are some, of the same weights")
        learned = np.array([made.learned.weights.as_array() for made in comparisons])
        fours = [
            made.four_terms.weights.as_array(ALL_TERMS) for made in comparisons if made.four_terms
        ]
        hits = {
            name: np.concatenate([made.hits[name] for made in comparisons])
            for name in comparisons[0].hits
        }
        patients = [
            f"{draw}:{patient}"
            for draw, made in enumerate(comparisons)
            for patient in made.patients
        ]
        return cls(
            dict(zip(TERMS, learned.mean(axis=0).tolist(), strict=True)),
            dict(zip(TERMS, learned.std(axis=0).tolist(), strict=True)),
            {name: float(np.mean([made.shares[name] for made in comparisons])) for name in TERMS},
            dict(zip(ALL_TERMS, np.mean(fours, axis=0).tolist(), strict=True)) if fours else None,
            RecallTable.of(hits, patients, seed),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, in the shape of `FusionComparison.as_dict`."""
        found = {
            "weights": self.weights,
            "weights_std": self.spread,
            "shares": self.shares,
            **self.table.as_dict(),
        }
        if self.four_terms is not None:
            found["four_terms"]["weights"] = self.four_terms
        return found
