"""From blocking to critical layers: the curve of every edge, the rule, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.learning.layers.edges import STEERED
from mrrag_llamaindex.statistics.bootstrap import Interval, interval, resampled_means
from mrrag_llamaindex.statistics.patients import split_by_patient

_NOTHING = 0.1  # percent
_LEAST = 8


@dataclass(frozen=True)
class Point:
    """One edge blocked around one layer.

    Attributes
    ----------
    edge : str
    layer : int
        Centre of the window.
    change : float
        Mean change of the answer's probability, in percent.
    ci : (float, float)
        95% interval of the mean, percentile bootstrap over patients.
    magnitude : float
        Mean of the absolute change: documents that mislead and documents that help cancel out in
        `change`, and not here.
    n : int
        Examples that have this edge.
    """

    edge: str
    layer: int
    change: float
    ci: Interval
    magnitude: float
    n: int


@dataclass(frozen=True)
class LayerChoice:
    """The critical layers, and the same choice on two halves of the patients.

    Attributes
    ----------
    layers : tuple of int
        From all examples.
    halves : (tuple of int, tuple of int)
        From each half alone.
    correlation : float
        Spearman's rank correlation between the halves' magnitudes over the layers; nan where all
        layers of a half tie.
    """

    layers: tuple[int, ...]
    halves: tuple[tuple[int, ...], tuple[int, ...]]
    correlation: float

    @property
    def agrees(self) -> bool:
        """Whether both halves lead to the layers chosen."""
        return set(self.halves[0]) == set(self.halves[1]) == set(self.layers)

    def in_words(self) -> str:
        """Say whether a second half of the data confirms the choice."""
        first, second = (list(half) for half in self.halves)
        rank = "undefined" if math.isnan(self.correlation) else f"{self.correlation:.2f}"
        if self.agrees:
            return f"both halves of the patients choose these layers (rank correlation {rank})"
        return (
            f"the halves of the patients do not agree: one chooses {first}, the other {second} "
            f"(rank correlation {rank}); trust the choice less, and give more examples"
        )


def critical_layers(
    magnitude: NDArray[np.float64],
    *,
    share: float = defaults.CRITICAL_SHARE,
    cap: float = defaults.CRITICAL_CAP,
) -> tuple[int, ...]:
    """Choose the critical layers.

    The rule is ours: every layer with at least ``share`` of the largest magnitude, the largest
    first, and no more than ``cap`` of all layers (one at least).

    Parameters
    ----------
    magnitude : ndarray
        (layers,): mean absolute change when documents->question is blocked around each layer.
    share, cap : float
        In (0, 1].

    Raises
    ------
    ModelError
        If blocking moves nothing anywhere.

    Examples
    --------
    >>> critical_layers(np.array([1.0, 40.0, 25.0, 5.0, 30.0, 2.0]))
    (1, 4)
    """
    largest = float(magnitude.max())
    if largest < _NOTHING:
        raise ModelError(
            "blocking the documents from the question changes the answers of this model in no "
            f"layer by {_NOTHING}%: it does not read them, so there is nothing to steer"
        )
    limit = max(1, int(cap * len(magnitude)))
    ranked = sorted(range(len(magnitude)), key=lambda layer: (-magnitude[layer], layer))
    return tuple(sorted(at for at in ranked[:limit] if magnitude[at] >= share * largest))


def choose(
    changes: Sequence[Mapping[str, Sequence[float]]], patients: Sequence[str], seed: int = 0
) -> LayerChoice:
    """Choose the critical layers, and again on each half of the patients.

    Parameters
    ----------
    changes : sequence of mapping
        One per example, as `Knockout.changes` returns them.
    patients : sequence of str
    seed : int
        Of the halves.

    Raises
    ------
    InputError
        If there are too few examples or patients for two halves.
    ModelError
        If blocking moves nothing.
    """
    rows = [row for row, change in enumerate(changes) if STEERED in change]
    names = [patients[row] for row in rows]
    if len(rows) < _LEAST or len(set(names)) < 2:
        raise InputError(
            f"{len(rows)} questions of {len(set(names))} patients could be used, and the choice "
            f"needs at least {_LEAST} of 2: those with documents that the model answers correctly"
        )
    sizes = np.abs(np.array([changes[row][STEERED] for row in rows], dtype=np.float64))
    parts = [sizes[part].mean(axis=0) for part in split_by_patient(names, 0.5, seed)]
    return LayerChoice(
        critical_layers(sizes.mean(axis=0)),
        (critical_layers(parts[0]), critical_layers(parts[1])),
        rank_correlation(parts[0], parts[1]),
    )


def curve(
    changes: Sequence[Mapping[str, Sequence[float]]], patients: Sequence[str], seed: int = 0
) -> tuple[Point, ...]:
    """Average every edge over the examples that have it, at every layer, with intervals."""
    points = []
    for edge in dict.fromkeys(edge for change in changes for edge in change):
        rows = [row for row, change in enumerate(changes) if edge in change]
        values = np.array([changes[row][edge] for row in rows], dtype=np.float64)
        owners = [patients[row] for row in rows]
        for layer, column in enumerate(values.T):
            change = float(column.mean())
            ends = interval(resampled_means(column, owners, seed), owners)
            magnitude = float(np.abs(column).mean())
            points.append(
                Point(edge, layer, change, ends or (change, change), magnitude, len(rows))
            )
    return tuple(points)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, nan where it is not defined."""
    from scipy.stats import spearmanr

    if len(first) < 2 or not (np.ptp(first) and np.ptp(second)):
        return math.nan
    return float(spearmanr(first, second).statistic)
