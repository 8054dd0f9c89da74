"""Which weights, temperature and number of pairs: chosen by accuracy on training questions.

Every question votes without the pairs of its own group of images, so the accuracy is that of
leaving one group out. What is tried is little: equal weights, each single term, and each term with
a part of another. (Two hundred draws of all six weights did worse on groups of training images that
they were not chosen on: .641 against .654, and .650 for the best single term.) Accuracy is a step
function, and of some hundred settings the best is partly luck; the step is therefore given the
width `WIDTH`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.votes.tables import LEAST, VoteTable

COUNTS = (5, 15, 40, 100, 400)
"""Numbers of pairs that are tried."""

TEMPERATURES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Temperatures that are tried, in standard deviations of a term of weight 1."""

PARTS = (0.25, 0.5, 1.0)
"""Weights of a second term beside a first of weight 1."""

WIDTH = 0.1
"""Share of the votes: how far from a tie an answer counts as nearly surely right or wrong."""

Votes = dict[tuple[int, float], NDArray[np.float64]]


@dataclass(frozen=True)
class VoteSetting:
    """How a vote is held.

    Attributes
    ----------
    weights : tuple of float
        Of each term.
    k : int
        Pairs that vote.
    temperature : float
    """

    weights: tuple[float, ...]
    k: int
    temperature: float


@dataclass(frozen=True)
class Chosen:
    """A setting, and its accuracy on the training questions that it was chosen on."""

    setting: VoteSetting
    accuracy: float
    smooth: float


def scores(table: VoteTable, weights: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the score of every pair for every question, shape (n, m)."""
    fused = np.zeros(table.values.shape[1:], dtype=np.float32)
    for weight, values in zip(weights, table.values, strict=True):
        if weight:
            fused += np.float32(weight) * values
    return np.where(table.allowed, fused, LEAST)


def best_pairs(score: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the places of the k best pairs of each question, best first, and their scores."""
    k = min(k, score.shape[1])
    places = np.argpartition(-score, k - 1, axis=1)[:, :k]
    found = np.take_along_axis(score, places, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(found, order, axis=1)


def shares_of_yes(table: VoteTable, weights: tuple[float, ...]) -> Votes:
    """Return the share of yes, shape (n,), for every number of pairs and temperature.

    NaN where no pair may vote.
    """
    places, found = best_pairs(scores(table, weights), max(COUNTS))
    yes = table.codes[places] == 1
    votes: Votes = {}
    for temperature in TEMPERATURES:
        # A pair that may not vote has a weight of exactly 0.
        weight = np.exp((found - found[:, :1]).astype(np.float64) / temperature)
        weight[found <= LEAST / 2] = 0
        total, agreeing = np.cumsum(weight, axis=1), np.cumsum(weight * yes, axis=1)
        for k in COUNTS:
            place = min(k, places.shape[1]) - 1
            with np.errstate(invalid="ignore"):
                votes[k, temperature] = agreeing[:, place] / total[:, place]
    return votes


def of_gold(table: VoteTable, yes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the gold answer of closed questions; 0 where nobody voted."""
    return np.where(np.isnan(yes), 0.0, np.where(table.affirmed, yes, 1 - yes))


def smooth_accuracy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how right each answer is, between 0 and 1: a step at one half of width `WIDTH`."""
    return np.asarray(1 / (1 + np.exp(-(share - 0.5) / WIDTH)))


def choose(table: VoteTable, tried: list[tuple[float, ...]]) -> Chosen:
    """Choose among weights, numbers of pairs and temperatures by smoothed accuracy.

    Of equal ones the first is taken.
    """
    best: Chosen | None = None
    for weights in tried:
        for (k, temperature), yes in shares_of_yes(table, weights).items():
            share = of_gold(table, yes)
            smooth = float(smooth_accuracy(share).mean())
            if best is None or smooth > best.smooth + 1e-12:
                setting = VoteSetting(weights, k, temperature)
                best = Chosen(setting, float((share > 0.5).mean()), smooth)
    assert best is not None
    return best


def single(terms: tuple[str, ...], name: str) -> tuple[float, ...]:
    """Return the weights of one term alone."""
    return tuple(float(term == name) for term in terms)


def tried_weights(terms: int) -> list[tuple[float, ...]]:
    """Return the weights that are tried for `learned`.

    Examples
    --------
    >>> tried_weights(2)[:4]
    [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.25)]
    """
    units = np.eye(terms)
    pairs = [
        units[one] + part * units[other]
        for one, other in permutations(range(terms), 2)
        for part in PARTS
    ]
    return list(dict.fromkeys(tuple(row.tolist()) for row in (np.ones(terms), *units, *pairs)))
