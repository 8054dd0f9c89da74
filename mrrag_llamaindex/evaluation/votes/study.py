"""The study: everything is chosen on training questions, and the test part is read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.evaluation.tasks.metrics.matching import exact_match, token_f1
from mrrag_llamaindex.evaluation.votes.choice import (
    Chosen,
    VoteSetting,
    choose,
    of_gold,
    shares_of_yes,
    single,
    tried_weights,
)
from mrrag_llamaindex.evaluation.votes.gate import train_gate
from mrrag_llamaindex.evaluation.votes.open_answers import (
    choose_open,
    open_votes,
)
from mrrag_llamaindex.evaluation.votes.tables import VoteTable, VoteTables
from mrrag_llamaindex.statistics.bootstrap import (
    Interval,
    difference_interval,
    resampled_means,
    share_interval,
)

EQUAL, LEARNED, GATED = "equal", "learned", "gated"


@dataclass(frozen=True)
class Share:
    """A mean over questions, with its 95% interval by bootstrap over images."""

    value: float
    ci: Interval | None


@dataclass(frozen=True)
class VoteRow:
    """One row of the table.

    Attributes
    ----------
    name : str
        A term, ``equal``, ``learned`` or ``gated``.
    setting : VoteSetting
        For closed questions.
    training : float
        Accuracy on the closed training questions that it was chosen on, each without the pairs of
        its own group of images; of gates, by those that did not see the image.
    closed : Share
        Accuracy on the closed test questions.
    exact, f1 : Share or None
        On the open ones; None for weights that depend on the question, which are trained on
        closed questions alone.
    """

    name: str
    setting: VoteSetting
    training: float
    closed: Share
    exact: Share | None
    f1: Share | None


@dataclass(frozen=True)
class VoteDifference:
    """Accuracy of one row minus that of another on the same closed test questions."""

    name: str
    minus: str
    value: float
    ci: Interval | None


@dataclass(frozen=True)
class VoteStudy:
    """Everything that the command prints.

    Attributes
    ----------
    terms : tuple of str
    closed, opened : int
        Test questions.
    images : int
        Of the closed test questions: what the bootstrap draws.
    majority : float
        Share of the more common answer among the closed test questions.
    rows : tuple of VoteRow
    best_single : str
        The single term that did best on training questions.
    differences : tuple of VoteDifference
    gate_steps : int
        0: no gate helped on training questions, and ``gated`` is ``learned``.
    """

    terms: tuple[str, ...]
    closed: int
    opened: int
    images: int
    majority: float
    rows: tuple[VoteRow, ...]
    best_single: str
    differences: tuple[VoteDifference, ...]
    gate_steps: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def run_study(
    tables: VoteTables, seed: int, say: Callable[[str], None] = lambda text: None
) -> VoteStudy:
    """Choose on the training tables, then read the test tables.

    Parameters
    ----------
    tables : VoteTables
    seed : int
        Of the gate and the bootstrap.
    say : callable
        Takes a line of progress.
    """
    training, test = tables.closed_training, tables.closed_test
    terms = training.terms
    chosen: dict[str, Chosen] = {}
    for name in terms:
        chosen[name] = choose(training, [single(terms, name)])
    best_single = max(terms, key=lambda name: chosen[name].smooth)
    chosen[EQUAL] = choose(training, [(1.0,) * len(terms)])
    say("choosing weights on training questions")
    chosen[LEARNED] = choose(training, tried_weights(len(terms)))
    say("training the gate")
    base = chosen[LEARNED].setting
    gate = train_gate(training, base, seed)
    say("choosing for open questions, and reading the test part")
    right: dict[str, NDArray[np.float64]] = {}
    exact: dict[str, NDArray[np.float64]] = {}
    f1: dict[str, NDArray[np.float64]] = {}
    for name, item in chosen.items():
        setting = item.setting
        yes = shares_of_yes(test, setting.weights)[setting.k, setting.temperature]
        right[name] = _right(test, yes)
        opened = choose_open(tables.open_training, setting.weights)
        answers = open_votes(tables.open_test, opened)
        pairs = list(zip(answers, tables.open_test.golds, strict=True))
        exact[name] = np.array([exact_match(*pair) for pair in pairs], dtype=np.float64)
        f1[name] = np.array([token_f1(*pair) for pair in pairs])
    right[GATED] = _right(test, gate.shares_of_yes(test))
    of_gate = _right(training, gate.shares_of_yes(training)).mean()
    rows = [
        VoteRow(
            name,
            item.setting,
            item.accuracy,
            _share(right[name], test.owners, seed),
            _share(exact[name], tables.open_test.owners, seed),
            _share(f1[name], tables.open_test.owners, seed),
        )
        for name, item in chosen.items()
    ]
    rows.append(
        VoteRow(GATED, base, float(of_gate), _share(right[GATED], test.owners, seed), None, None)
    )
    compared = ((LEARNED, EQUAL), (LEARNED, best_single), (GATED, LEARNED), (EQUAL, best_single))
    affirmed = float(test.affirmed.mean())
    return VoteStudy(
        terms=terms,
        closed=len(test.golds),
        opened=len(tables.open_test.golds),
        images=len(set(test.owners)),
        majority=max(affirmed, 1 - affirmed),
        rows=tuple(rows),
        best_single=best_single,
        differences=tuple(
            _difference(one, other, right, test.owners, seed) for one, other in compared
        ),
        gate_steps=gate.steps,
    )


def _right(table: VoteTable, yes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (of_gold(table, yes) > 0.5).astype(np.float64)


def _share(values: NDArray[np.float64], owners: tuple[str, ...], seed: int) -> Share:
    means = resampled_means(values, owners, seed)
    return Share(float(values.mean()), share_interval(means, owners))


def _difference(
    one: str,
    other: str,
    right: dict[str, NDArray[np.float64]],
    owners: tuple[str, ...],
    seed: int,
) -> VoteDifference:
    values = right[one] - right[other]
    ends = difference_interval(resampled_means(values, owners, seed), owners)
    return VoteDifference(one, other, float(values.mean()), ends)
