"""Strength and layers of every policy, chosen on validation questions with equal budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion, Scores
from mrrag_llamaindex.evaluation.noise.result import OFF, Contestant
from mrrag_llamaindex.evaluation.noise.study import ask
from mrrag_llamaindex.steering.policies.registry import POLICIES

if TYPE_CHECKING:
    from mrrag_llamaindex.steering.policy import SteeringPolicy

Layers = tuple[int, ...]

LEAST_QUESTIONS = 30
"""Validation questions below which `published` is the better choice: the best of 15 settings on
fewer is chance."""

_EACH_LAYER = 8


@dataclass(frozen=True)
class Tuned:
    """A policy with the setting that won on validation questions, or the published one.

    Attributes
    ----------
    contestant : Contestant
    value : float or None
        Strength, threshold or alpha; None for plain attention.
    layers : tuple of int
    accuracy : float or None
        On the validation questions at half noise; None if nothing was tried.
    plain : float or None
        That of plain attention on the same.
    tried : int
        Settings tried.
    """

    contestant: Contestant
    value: float | None
    layers: Layers
    accuracy: float | None
    plain: float | None
    tried: int


def layer_sets(depth: int, critical: Sequence[int]) -> list[Layers]:
    """Return the sets of layers to try: the critical ones, all, and parts of the depth.

    Each layer alone in a model of up to 8, else each third.

    Examples
    --------
    >>> layer_sets(3, [1])
    [(1,), (0, 1, 2), (0,), (2,)]
    """
    parts: list[Layers]
    if depth <= _EACH_LAYER:
        parts = [(layer,) for layer in range(depth)]
    else:
        edges = [0, depth // 3, depth - depth // 3, depth]
        parts = [tuple(range(*pair)) for pair in pairwise(edges)]
    return list(dict.fromkeys([tuple(sorted(critical)), tuple(range(depth)), *parts]))


def setting(name: str, value: float, layers: Layers) -> SteeringPolicy:
    """Return one setting of a policy, as far as it acts on attention: that is compared here."""
    return POLICIES[name]().attention_only().at(value, layers)


def published(
    policies: Sequence[str], scores: Sequence[Scores], critical: Sequence[int]
) -> list[Tuned]:
    """Return every policy as it is without tuning: the middle of its values, the critical layers.

    For data with too few patients to choose on; nothing is known of how well it does.
    """
    layers = tuple(sorted(critical))
    found = []
    for kind in scores:
        for name in policies:
            value = None if name == OFF else POLICIES[name].three_values[1]
            formula = None if value is None else setting(name, value, layers)
            used = () if value is None else layers
            found.append(Tuned(Contestant(name, kind, formula), value, used, None, None, 0))
    return found


def tune(
    sweep: PrefixSweep,
    questions: Sequence[NoiseQuestion],
    policies: Sequence[str],
    scores: Sequence[Scores],
) -> list[Tuned]:
    """Choose every policy's setting by accuracy at half noise, the noise being other patients.

    Every policy has three values times the same sets of layers, so the budgets are equal, and the
    same questions; what is tuned with the truth as score is not used with MCR's. Equal accuracies
    are decided by the mean probability of the truth.

    Parameters
    ----------
    sweep : PrefixSweep
    questions : sequence of NoiseQuestion
        Not those of the measurement.
    policies : sequence of str
        Names of `POLICIES`, and `OFF`.
    scores : sequence of str

    Returns
    -------
    list of Tuned
        For each kind of scores, each policy.
    """
    sets = layer_sets(sweep.depth, sweep.engine.loaded.critical_layers)
    settings = [
        (Contestant(name, kind, setting(name, value, layers)), value, layers)
        for kind in scores
        for name in policies
        if name != OFF
        for value in POLICIES[name].three_values
        for layers in sets
    ]
    plain = Contestant(OFF, scores[0], None)
    half = len(questions[0].relevant) // 2
    found = ask(sweep, questions, [plain, *(item[0] for item in settings)], half)
    truth = np.array([question.truth == "yes" for question in questions])
    standing = []
    for readings in found:
        right = [v == q.truth for v, q in zip(readings.verdicts, questions, strict=True)]
        sure = np.where(truth, readings.p_yes, readings.p_no)
        standing.append((float(np.mean(right)), float(sure.mean())))
    (base, _), *rest = standing
    chosen = []
    for kind in scores:
        for name in policies:
            if name == OFF:
                chosen.append(Tuned(Contestant(OFF, kind, None), None, (), base, base, 0))
                continue
            own = [
                (place, setting)
                for place, setting in zip(rest, settings, strict=True)
                if (setting[0].policy, setting[0].scores) == (name, kind)
            ]
            place, (contestant, value, layers) = max(own, key=lambda item: item[0])
            chosen.append(Tuned(contestant, value, layers, place[0], base, len(own)))
    return chosen
