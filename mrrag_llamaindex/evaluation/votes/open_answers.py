"""Votes on open questions: the answer of the largest share, by exact match and by token F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.tasks.metrics.matching import token_f1
from mrrag_llamaindex.evaluation.votes.choice import (
    COUNTS,
    TEMPERATURES,
    VoteSetting,
    best_pairs,
    scores,
)
from mrrag_llamaindex.evaluation.votes.tables import LEAST, VoteTable


def open_votes(table: VoteTable, setting: VoteSetting) -> list[str]:
    """Return the answer to each question; empty where no pair may vote."""
    places, found = best_pairs(scores(table, setting.weights), setting.k)
    return _winners(table, places, found, setting.temperature)


def _winners(
    table: VoteTable, places: NDArray[np.intp], found: NDArray[np.float32], temperature: float
) -> list[str]:
    answers = []
    for own, values in zip(places, found, strict=True):
        may = values > LEAST / 2
        if not may.any():
            answers.append("")
            continue
        weight = np.exp((values[may] - values[0]).astype(np.float64) / temperature)
        codes = table.codes[own[may]]
        _, first, kind = np.unique(codes, return_index=True, return_inverse=True)
        share = np.bincount(kind, weights=weight)
        # Of equal shares, the answer of the better pair.
        winner = first[np.lexsort((first, -share))[0]]
        answers.append(table.answers[int(own[may][winner])])
    return answers


def choose_open(table: VoteTable, weights: tuple[float, ...]) -> VoteSetting:
    """Choose number of pairs and temperature for given weights by token F1 on training questions.

    Exact matches are few, and F1 counts them, too.
    """
    places, found = best_pairs(scores(table, weights), max(COUNTS))
    best, most = VoteSetting(weights, COUNTS[0], TEMPERATURES[0]), -1.0
    for k in COUNTS:
        for temperature in TEMPERATURES:
            answers = _winners(table, places[:, :k], found[:, :k], temperature)
            pairs = zip(answers, table.golds, strict=True)
            value = float(np.mean([token_f1(answer, gold) for answer, gold in pairs]))
            if value > most + 1e-12:
                best, most = VoteSetting(weights, k, temperature), value
    return best
