"""What is learned before the methods run: fusion weights, rankings and policies of baselines.

Both come from questions and pairs that are not scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.methods.ranking import Ranking
from mrrag_llamaindex.evaluation.methods.registry import USUAL, row_named
from mrrag_llamaindex.evaluation.methods.row import Ingredients
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.fusion.training import train_fusion
from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
from mrrag_llamaindex.learning.mining.mining import mine
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.learning.mining.workers import Raters
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.statistics.patients import split_by_patient
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.towers.protocol import DualTower

LEAST_EXAMPLES = 20
"""Training examples below which the weights stay equal: three numbers, and a part held out."""

_HELD_OUT = 0.25


@dataclass(frozen=True)
class Learned:
    """What was learned before any method runs.

    Attributes
    ----------
    weights : FusionWeights or QueryGatedWeights
    rankings : dict of str to Ranking
        Of the methods that learn their own.
    policies : dict of str to SteeringPolicy
        Of the methods that learn theirs.
    not_run : dict of str to str
        Why there is none for a method that needs it.
    notes : tuple of str
    """

    weights: AnyWeights = field(default_factory=FusionWeights)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def learn(
    fit: EmbeddedSet | None,
    store: PairStore,
    towers: DualTower,
    engine: Engine | Raters | None,
    *,
    facts_from: EmbeddedSet | None = None,
    weights: AnyWeights | None = None,
    wanted: Sequence[str] = USUAL,
    documents: int = defaults.MAX_DOCUMENTS,
    folder: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int, int], None] | None = None,
) -> Learned:
    """Learn what the wanted methods need.

    Parameters
    ----------
    fit : EmbeddedSet or None
        Questions to learn the weights from; None: equal weights.
    store : PairStore
        That of `fit`.
    towers, engine
        The frozen towers, and the generator whose confidence labels the documents; without one
        nothing is mined, and the weights stay equal.
    facts_from : EmbeddedSet, optional
        Pairs with finding labels; by default those of `fit`.
    weights : optional
        Learned elsewhere: nothing is mined.
    wanted : sequence of str
        Methods that will run.
    documents : int
        Those of a question from which a policy is learned.
    folder : pathlib.Path, optional
        Gets ``d_train.jsonl``; an interrupted mining resumes from it.
    seed : int
    progress : callable, optional
        As `mine` takes it.
    """
    rows = [row_named(name) for name in wanted]
    notes = []
    if weights is not None:
        notes.append("fusion weights: as given")
    elif any(row.weighs for row in rows):
        weights, note = _fusion(fit, store, towers, engine, folder, seed, progress)
        notes.append(note)
    rankings: dict[str, Ranking] = {}
    policies: dict[str, Any] = {}
    not_run = {}
    source = facts_from or fit
    ingredients = Ingredients(documents, weights or FusionWeights(), None)
    for row in rows:
        try:
            if row.learns_policy:
                policies[row.name], note = row.learn_policy(fit, engine, ingredients)
                notes.append(f"{row.name}: {note}")
            if not row.learns:
                continue
            if source is None:
                raise InputError("no finding labels are known for the pairs")
            rankings[row.name] = ranking = row.learn(source)
        except InputError as error:
            not_run[row.name] = str(error)
        else:
            notes.append(f"{row.name}: {ranking.note}")
    return Learned(ingredients.weights, rankings, policies, not_run, tuple(notes))


def _fusion(
    fit: EmbeddedSet | None,
    store: PairStore,
    towers: DualTower,
    engine: Engine | Raters | None,
    folder: Path | None,
    seed: int,
    progress: Callable[[int, int, int], None] | None,
) -> tuple[FusionWeights, str]:
    if fit is None or not len(fit):
        return FusionWeights(), "fusion weights: equal, there are no questions to learn them from"
    if engine is None:
        return FusionWeights(), "fusion weights: equal, learning them takes a model or --weights"
    if not fit.pair_ids:
        return FusionWeights(), "fusion weights: none, there are no pairs to score"
    settings = MiningSettings(pool="each_term", seed=seed)
    confidence = (
        engine
        if isinstance(engine, Raters)
        else AnswerConfidence(engine, batch_size=engine.batch_size)
    )
    with tempfile.TemporaryDirectory() as temporary:
        out = (folder or Path(temporary)) / "d_train.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        mine(fit.questions, store, towers, confidence, out, settings, progress)
        records = read_training_set(out).usable
    examples = [FusionQuestion.of_record(record).example for record in records]
    known = [item for item in examples if item is not None]
    if len(known) < LEAST_EXAMPLES or len({item.patient_id for item in known}) < 3:
        return FusionWeights(), (
            f"fusion weights: equal, {len(known)} of {len(fit)} questions teach something and "
            f"{LEAST_EXAMPLES} are needed"
        )
    learn_on, check_on = split_by_patient([item.patient_id for item in known], _HELD_OUT, seed)
    weights = train_fusion([known[n] for n in learn_on], [known[n] for n in check_on]).weights
    values = ", ".join(f"{name} {value:.2f}" for name, value in weights.as_dict().items())
    return weights, f"fusion weights: {values}, learned from {len(known)} questions"
