"""What every policy did at every level of noise, question by question, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.noise.attention_share import document_shares, noise_share
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.readings import Readings
from mrrag_llamaindex.statistics.bootstrap import (
    Interval,
    difference_interval,
    interval,
    largest_unseen_share,
    resampled_means,
    resampled_sums,
    share_interval,
)
from mrrag_llamaindex.steering.policies.registry import OFF
from mrrag_llamaindex.steering.policy import SteeringPolicy


@dataclass(frozen=True)
class Contestant:
    """A policy and the scores that it reads."""

    policy: str
    scores: Scores
    formula: SteeringPolicy | None


@dataclass(frozen=True, eq=False)
class Cell:
    """What one contestant did at one level of noise, question by question.

    Attributes
    ----------
    right : ndarray of float, shape (n,)
        1 where the first answer token says the truth.
    noise_attention : ndarray, shape (n,)
        Share of document attention on irrelevant ones: question rows, the watched layers. NaN where
        no document is attended to.
    everywhere : ndarray, shape (n,)
        The same over all layers.
    at_answer : ndarray, shape (n,)
        The same in the watched layers, of the row that predicts the answer.
    confidence : ndarray, shape (n,)
        Probability of the truth as the first answer token.
    """

    right: NDArray[np.float64]
    noise_attention: NDArray[np.float64]
    everywhere: NDArray[np.float64]
    at_answer: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        readings: Readings,
        questions: Sequence[NoiseQuestion],
        irrelevant: int,
        layers: Sequence[int],
    ) -> Cell:
        """Score one variant's readings."""
        pairs = zip(readings.verdicts, questions, strict=True)
        right = np.array([float(verdict == item.truth) for verdict, item in pairs])
        marked = np.array([item.marked(irrelevant) for item in questions])
        every = range(readings.masses.shape[2])

        def share(of_layers: Sequence[int], rows: str) -> NDArray[np.float64]:
            return noise_share(document_shares(readings.masses, of_layers, rows), marked)

        truth = np.array([item.truth == "yes" for item in questions])
        return cls(
            right,
            share(layers, "question"),
            share(every, "question"),
            share(layers, "answer"),
            np.where(truth, readings.p_yes, readings.p_no),
        )


Key = tuple[str, Scores, bool, int]
"""Policy, scores, adversarial, number of irrelevant documents."""


@dataclass(frozen=True, eq=False)
class NoiseResult:
    """Every question's outcome in every cell.

    Attributes
    ----------
    documents : int
        K.
    contestants : tuple of Contestant
    owners : tuple of str
        Patient of each question.
    layers : tuple of int
        Watched layers: those in which attention is reported.
    cells : mapping of (policy, scores, adversarial, irrelevant) to Cell
    seed : int
        Of the bootstrap.
    """

    documents: int
    contestants: tuple[Contestant, ...]
    owners: tuple[str, ...]
    layers: tuple[int, ...]
    cells: Mapping[Key, Cell]
    seed: int

    @property
    def half(self) -> int:
        """Irrelevant documents at half noise."""
        return self.documents // 2

    def accuracy(self, key: Key) -> tuple[float, Interval | None]:
        """Return the accuracy of a cell and its interval."""
        right = self.cells[key].right
        means = resampled_means(right, self.owners, self.seed)
        return float(right.mean()), share_interval(means, self.owners)

    def attention(self, key: Key, field: str) -> tuple[float | None, Interval | None]:
        """Return the mean of one of a cell's shares, over the questions in which it is defined."""
        values: NDArray[np.float64] = getattr(self.cells[key], field)
        defined = ~np.isnan(values)
        if not defined.any():
            return None, None
        owners = [owner for owner, keep in zip(self.owners, defined, strict=True) if keep]
        known = values[defined]
        return float(known.mean()), interval(resampled_means(known, owners, self.seed), owners)

    def difference(self, first: Key, second: Key) -> tuple[float, Interval | None]:
        """Return accuracy of the first minus that of the second, paired by patient."""
        values = self.cells[first].right - self.cells[second].right
        means = resampled_means(values, self.owners, self.seed)
        return float(values.mean()), difference_interval(means, self.owners)

    def loss(self, *, adversarial: bool = False) -> tuple[float, Interval | None]:
        """Return what plain RAG loses between no noise and half noise."""
        scores = self.contestants[0].scores
        return self.difference((OFF, scores, adversarial, 0), (OFF, scores, adversarial, self.half))

    def recovered(
        self, policy: str, scores: Scores, *, adversarial: bool = False
    ) -> tuple[float | None, Interval | None]:
        """Return the share of that loss which a policy wins back at half noise.

        ``(accuracy of the policy - accuracy of off) at half noise / loss of off``. None where
        plain RAG loses nothing; no interval where it loses nothing in more than one in 40 of the
        bootstrap samples, because a ratio has none then. A policy that is right wherever plain
        RAG is without noise, or exactly where it is with noise, wins back all or nothing in every
        sample; the interval is then that of the gain, see `difference_interval`, over the loss.
        """
        clean = self.cells[OFF, scores, adversarial, 0].right
        off = self.cells[OFF, scores, adversarial, self.half].right
        own = self.cells[policy, scores, adversarial, self.half].right
        pairs = np.stack([own - off, clean - off], axis=1)
        gain, lost = pairs.sum(axis=0)
        if lost <= 0:
            return None, None
        sums = resampled_sums(pairs, self.owners, self.seed)
        if np.quantile(sums[:, 1], 0.025) <= 0:
            return float(gain / lost), None
        samples = sums[sums[:, 1] > 0]
        share, ends = float(gain / lost), interval(samples[:, 0] / samples[:, 1], self.owners)
        if ends is not None and ends[0] == ends[1]:
            wide = largest_unseen_share(len(set(self.owners)))
            loss, lowest, highest = lost / len(off), -off.mean(), 1 - off.mean()
            low, high = (np.clip(share * loss + side, lowest, highest) for side in (-wide, wide))
            ends = float(low / loss), float(high / loss)
        return share, ends
