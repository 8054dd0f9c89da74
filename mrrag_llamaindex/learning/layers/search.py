"""The search for a model's critical layers by attention knockout, with controls and its price."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mrrag_llamaindex.errors import InputError, ModelError, SteeringError
from mrrag_llamaindex.generation.checkpoints.profile_store import profile_identity
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.learning.layers.blocking import ROWS, Baseline, Example, Knockout
from mrrag_llamaindex.learning.layers.choice import LayerChoice, Point, choose, curve
from mrrag_llamaindex.learning.layers.edges import block_plan, edges_of, window_around

CONTROLS = 8
"""Examples on which the two controls run."""

MOVES = 0.1
"""Percent by which the full block must change answers on average: above what rounding does."""

NAIVE = 32
"""Forward passes of the naive procedure that are timed; its price is their mean times their
number."""


@dataclass(frozen=True)
class LayerSearch:
    """What a search found.

    Attributes
    ----------
    choice : LayerChoice
    curve : tuple of Point
    asked, kept : int
        Examples, and those that the model answered correctly: only they were blocked.
    window, depth : int
        Layers blocked at once, and layers of the model.
    empty_change : float
        Largest change by an empty block, in percent; a search with anything but 0 fails.
    full_change : float
        Mean change by the full block, in percent; a search in which it moves nothing fails.
    seconds : mapping
        ``ours``: wall-clock time of the search, its prompts and images included. ``naive``: time
        that one full forward pass per edge, window and example would have taken, estimated from
        `naive_timed` of its `naive_passes`, which ran in between.
    naive_timed, naive_passes : int
    naive_difference : float
        Largest difference between the probabilities of those passes and ours.
    identity : str
        Of the model, see `profile_identity`.
    seed : int
    """

    choice: LayerChoice
    curve: tuple[Point, ...]
    asked: int
    kept: int
    window: int
    depth: int
    empty_change: float
    full_change: float
    seconds: Mapping[str, float]
    naive_timed: int
    naive_passes: int
    naive_difference: float
    identity: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        correlation = self.choice.correlation
        return {
            "layers": list(self.choice.layers),
            "curve": [{**asdict(point), "ci": list(point.ci)} for point in self.curve],
            "seconds": dict(self.seconds),
            "naive": {
                "timed": self.naive_timed,
                "passes": self.naive_passes,
                "largest_difference": self.naive_difference,
            },
            "halves": {
                "layers": [list(half) for half in self.choice.halves],
                "rank_correlation": None if np.isnan(correlation) else correlation,
                "agree": self.choice.agrees,
            },
            "controls": {"empty": self.empty_change, "full": self.full_change},
            "examples": {"asked": self.asked, "answered_correctly": self.kept},
            "window": self.window,
            "depth": self.depth,
            "identity": self.identity,
            "seed": self.seed,
        }

    def note(self) -> str:
        """Say for a profile how the layers were found."""
        return (
            f"attention knockout of documents->question in windows of {self.window} of "
            f"{self.depth} layers, on {self.kept} correctly answered questions of {self.asked} "
            f"(seed {self.seed}); {self.choice.in_words()}"
        )


def search_layers(
    engine: LlavaEngine,
    examples: Sequence[Example],
    *,
    window: int | None = None,
    rows: int = ROWS,
    seed: int = 0,
    naive: int = NAIVE,
    advance: Callable[[int, int], None] | None = None,
) -> LayerSearch:
    """Find the critical layers of a model.

    Parameters
    ----------
    engine : LlavaEngine
    examples : sequence of Example
        Yes/no questions; those that the model gets wrong are left out.
    window, rows
        See `Knockout`.
    seed : int
        Of the halves, the intervals and the passes that are timed.
    naive : int
        Naive forward passes to time; 0 for none, and no estimate.
    advance : callable, optional
        Takes the number of examples done, and of all.

    Raises
    ------
    InputError
        If too few questions are left.
    ModelError
        If the model has no single token for yes or for no, or does not read the documents.
    SteeringError
        If a control fails: nothing that the search found would then be worth anything.
    """
    knockout = Knockout(engine, window, rows)
    words = {"yes": engine.yes_ids, "no": engine.no_ids}
    if not all(words.values()):
        raise ModelError(
            "this model's tokenizer has no single token for yes or for no, so its first answer "
            "token does not tell whether it answers correctly"
        )
    rng = np.random.default_rng(seed)
    timed: list[tuple[float, float]] = []
    changes: list[dict[str, list[float]]] = []
    patients: list[str] = []
    controls: list[tuple[float, float]] = []
    seconds = 0.0
    for number, example in enumerate(examples):
        started = time.perf_counter()
        baseline = knockout.ask(example)
        right = baseline.token in words[example.answer]
        if right:
            changes.append(knockout.changes(baseline))
            patients.append(example.patient_id)
        seconds += time.perf_counter() - started
        if right and len(controls) < CONTROLS:
            controls.append(knockout.control(baseline))
        if right:
            # Spread over the search, so that both ways meet the same load of the machine.
            due = -(-naive * (number + 1) // len(examples))
            count = min(due, naive) - len(timed)
            timed += _naive_passes(knockout, baseline, changes[-1], count, rng)
        if advance is not None:
            advance(number + 1, len(examples))
    if not changes:
        raise InputError(
            f"the model answers none of the {len(examples)} questions correctly, and attention "
            "knockout needs answers that are worth keeping"
        )
    passes = sum(len(values) for change in changes for values in change.values())
    empty, full = checked(controls)
    return LayerSearch(
        choice=choose(changes, patients, seed),
        curve=curve(changes, patients, seed),
        asked=len(examples),
        kept=len(changes),
        window=knockout.window,
        depth=knockout.depth,
        empty_change=empty,
        full_change=full,
        seconds={"ours": seconds, "naive": passes * sum(s for s, _ in timed) / max(1, len(timed))},
        naive_timed=len(timed),
        naive_passes=passes,
        naive_difference=max((difference for _, difference in timed), default=0.0),
        identity=profile_identity(engine.loaded),
        seed=seed,
    )


def _naive_passes(
    knockout: Knockout,
    baseline: Baseline,
    changes: Mapping[str, Sequence[float]],
    count: int,
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    """Block edges the simple way: one full forward pass each, drawn at random, nothing shared.

    Returns
    -------
    list of (float, float)
        For each pass its seconds, and how far its probability is from that of `changes`.
    """
    engine, edges = knockout.engine, edges_of(baseline.spans)
    passes = []
    for _ in range(count):
        edge = edges[rng.integers(len(edges))]
        centre = int(rng.integers(knockout.depth))
        started = time.perf_counter()
        layers = window_around(centre, knockout.window, knockout.depth)
        plan = block_plan([edge], baseline.spans, layers, engine.model.device)
        logits = engine.runner.logits([baseline.prompt.input_ids], [baseline.image], steering=plan)
        p = float(logits[0, -1].softmax(-1)[baseline.token])
        seconds = time.perf_counter() - started
        ours = baseline.probability * (1 + changes[edge.name][centre] / 100)
        passes.append((seconds, abs(p - ours)))
    return passes


def checked(controls: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return what an empty and a full block change, if that is what it must be.

    `controls` are what `Knockout.control` returned; of the empty block the largest change is
    returned, of the full one the mean.

    Raises
    ------
    SteeringError
        If an empty block changes anything, or the full ones move less than `MOVES` on average.
    """
    empty = max(value for value, _ in controls)
    if empty != 0.0:
        raise SteeringError(
            f"control failed: a block of nothing changes the answer by {empty:.2g}%, so what "
            "blocking measures on this model and device cannot be trusted"
        )
    full = [value for _, value in controls]
    if float(np.mean(np.abs(full))) < MOVES:
        raise SteeringError(
            "control failed: with image and documents blocked in every layer the answers stay the "
            f"same within {MOVES}%, so blocking does not reach this model, or it reads neither"
        )
    return empty, float(np.mean(full))
