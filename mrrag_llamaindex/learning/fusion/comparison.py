"""What learned weights are worth on patients they were not learned on, against simpler weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.gated_training import GateSettings, LearnedGate, train_gate
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.fusion.recall_table import CHANCE, RecallTable
from mrrag_llamaindex.learning.fusion.training import (
    FusionSettings,
    LearnedFusion,
    train_fusion,
)
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.statistics.patients import split_by_patient


def simple_weights(terms: tuple[str, ...]) -> dict[str, FusionWeights]:
    """Return what learned weights are compared with, by name: each term alone, and ``equal``."""
    alone = {name: FusionWeights.alone(name) for name in terms}
    return {**alone, "equal": FusionWeights.equal(terms)}


_VALIDATION = 0.25

_SHOWN = 100
"""Epochs of a training that are told, at most, beside the one that was kept."""


def _curve(learned: LearnedFusion | LearnedGate) -> dict[str, Any]:
    """Return the losses of a training by epoch, thinned to what a line needs."""
    step = -(-len(learned.losses) // _SHOWN) or 1
    epochs = sorted({*range(0, len(learned.losses), step), learned.epoch})
    curve = {
        "epoch": epochs,
        "training_loss": [learned.losses[epoch][0] for epoch in epochs],
        "validation_loss": [learned.losses[epoch][1] for epoch in epochs],
    }
    return {"best_epoch": learned.epoch, "curve": curve}


@dataclass(frozen=True, eq=False)
class FusionComparison:
    """Learned weights, and recall@1 of them and of simpler ones on held-out patients.

    Attributes
    ----------
    learned : LearnedFusion
        The weights of `terms`.
    four_terms : LearnedFusion or None
        Of the paper's three with the fourth; None if the candidates lack that similarity, or have
        raw ones as well, which are learned with it.
    gated : LearnedGate or None
        Weights for each question; None if not asked for.
    hits : dict of ndarray
        By name, for each held-out question whether the first-ranked candidate is right:
        ``chance`` (the share of right candidates), the terms alone, ``equal``, ``learned``, and
        ``four_terms`` and ``gated`` where there are any.
    patients : tuple of str
        Patients of the held-out questions.
    shares : dict
        By term, how much of what tells a question's candidates apart is its doing: the size of the
        learned weight times the term's standard deviation over the candidates (mean over the
        held-out questions), as shares of 1. A term that hardly varies may have a large weight and
        decide nothing.
    seed : int
        Of the bootstrap.
    terms : tuple of str
        `TERMS`, or `ALL_TERMS` for towers that keep raw features.
    """

    learned: LearnedFusion
    four_terms: LearnedFusion | None
    gated: LearnedGate | None
    hits: Mapping[str, NDArray[np.float64]]
    patients: tuple[str, ...]
    shares: dict[str, float]
    seed: int = 0
    terms: tuple[str, ...] = TERMS

    @property
    def table(self) -> RecallTable:
        """Recall@1 with intervals."""
        return RecallTable.of(self.hits, self.patients, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``mrrag train-fusion --json`` prints."""
        values = self.learned.weights.as_array(self.terms).tolist()
        weights = dict(zip(self.terms, values, strict=True))
        data = {"weights": weights, "shares": self.shares, **self.table.as_dict()}
        if self.four_terms is not None:
            values = self.four_terms.weights.as_array(HEAD_TERMS).tolist()
            data["four_terms"]["weights"] = dict(zip(HEAD_TERMS, values, strict=True))
        if self.gated is not None:
            data["gated"]["epoch"] = self.gated.epoch
        learned = {"learned": self.learned, "four_terms": self.four_terms, "gated": self.gated}
        data["training"] = {name: _curve(one) for name, one in learned.items() if one is not None}
        return data


def learn_and_compare(
    questions: Sequence[FusionQuestion],
    *,
    held_out: float = 0.5,
    seed: int = 0,
    settings: FusionSettings | None = None,
    gate: GateSettings | None = None,
    terms: tuple[str, ...] | None = None,
    gate_terms: tuple[str, ...] | None = None,
) -> FusionComparison:
    """Split by patient, learn and validate on one part, measure on the other.

    Parameters
    ----------
    questions
        The fourth term is tried if all of them have it and no raw ones.
    held_out
        Share of the patients to measure on; a quarter of the others validates.
    seed
        Of both splits and the bootstrap.
    settings
        Default: `FusionSettings()`.
    gate
        If given, weights for each question are learned and measured, too.
    terms
        Whose weights are learned: by default all six where the questions have them, else `TERMS`.
    gate_terms
        Whose weights the gate corrects: by default those of `terms`; `HEAD_TERMS`: the four.

    Raises
    ------
    InputError
        If there are fewer than three patients, no example on either side of the validation, or a
        gate or terms are asked of questions without vectors or without these terms.
    """
    rest, measured = split_by_patient([item.patient_id for item in questions], held_out, seed)
    examples = [item.example for item in (questions[place] for place in rest) if item.example]
    if not examples:
        raise InputError("no question of the training patients teaches anything")
    places = split_by_patient([item.patient_id for item in examples], _VALIDATION, seed)
    fit, check = ([examples[place] for place in part] for part in places)
    width = min(item.terms.shape[1] for item in questions)
    terms = terms or (ALL_TERMS if width == len(ALL_TERMS) else TERMS)
    gate_terms = gate_terms or terms
    for wanted in (terms, gate_terms):
        if len(wanted) > width:
            raise InputError(
                f"these questions lack the similarities {', '.join(wanted[width:])}: learn "
                f"{width} terms (--terms {width}), or mine again from a store whose towers "
                "keep the encoders' own features"
            )
    learned = train_fusion(fit, check, settings, terms=terms)
    weights_by_name: dict[str, AnyWeights] = {**simple_weights(terms), "learned": learned.weights}
    four, gated = None, None
    if width == len(HEAD_TERMS):
        four = train_fusion(fit, check, settings, terms=HEAD_TERMS)
        weights_by_name["four_terms"] = four.weights
    if gate is not None:
        base = learned if gate_terms == terms or four is None else four
        gated = train_gate(fit, check, base, gate, terms=gate_terms)
        weights_by_name["gated"] = gated.weights
    kept = [questions[place] for place in measured]
    hits = {CHANCE: np.array([float(item.right.mean()) for item in kept])}
    for name, weights in weights_by_name.items():
        hits[name] = np.array([item.hit(weights) for item in kept])
    patients = tuple(item.patient_id for item in kept)
    shares = _shares(learned.weights, terms, kept)
    return FusionComparison(learned, four, gated, hits, patients, shares, seed, terms)


def _shares(
    weights: FusionWeights, terms: tuple[str, ...], questions: Sequence[FusionQuestion]
) -> dict[str, float]:
    spread = np.mean([item.terms[:, : len(terms)].std(axis=0) for item in questions], axis=0)
    sizes = np.abs(weights.as_array(terms)) * spread
    total = float(sizes.sum()) or 1.0
    return dict(zip(terms, (sizes / total).tolist(), strict=True))


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
        if not comparisons or len({tuple(one.hits) for one in comparisons}) > 1:
            raise InputError("comparisons can be pooled if there are some, of the same weights")
        terms = comparisons[0].terms
        learned = np.array([one.learned.weights.as_array(terms) for one in comparisons])
        fours = [
            one.four_terms.weights.as_array(HEAD_TERMS) for one in comparisons if one.four_terms
        ]
        hits = {
            name: np.concatenate([one.hits[name] for one in comparisons])
            for name in comparisons[0].hits
        }
        patients = [
            f"{draw}:{patient}" for draw, one in enumerate(comparisons) for patient in one.patients
        ]
        return cls(
            dict(zip(terms, learned.mean(axis=0).tolist(), strict=True)),
            dict(zip(terms, learned.std(axis=0).tolist(), strict=True)),
            {name: float(np.mean([one.shares[name] for one in comparisons])) for name in terms},
            dict(zip(HEAD_TERMS, np.mean(fours, axis=0).tolist(), strict=True)) if fours else None,
            RecallTable.of(hits, patients, seed),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, in the shape of `FusionComparison.as_dict`."""
        data = {
            "weights": self.weights,
            "weights_std": self.spread,
            "shares": self.shares,
            **self.table.as_dict(),
        }
        if self.four_terms is not None:
            data["four_terms"]["weights"] = self.four_terms
        return data
