"""What is learned before the methods run: fusion weights, and the map of factual agreement.

Both come from questions and pairs that are not scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.factual_agreement import learn_agreement
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.fusion.training import train_fusion
from mrrag_llamaindex.learning.mining.mining import mine
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.statistics.patients import split_by_patient

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.factual_agreement import FactualAgreement
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
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
    agreement : FactualAgreement or None
    no_agreement : str
        Why there is none.
    notes : tuple of str
    """

    weights: AnyWeights = field(default_factory=FusionWeights)
    agreement: FactualAgreement | None = None
    no_agreement: str = "no finding labels are known for the pairs"
    notes: tuple[str, ...] = ()


def learn(
    fit: EmbeddedSet | None,
    store: PairStore,
    towers: DualTower,
    engine: LlavaEngine,
    *,
    facts_from: EmbeddedSet | None = None,
    weights: AnyWeights | None = None,
    wanted: tuple[str, ...] = (),
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
        The frozen towers, and the generator whose confidence labels the documents.
    facts_from : EmbeddedSet, optional
        Pairs with finding labels; by default those of `fit`.
    weights : optional
        Learned elsewhere: nothing is mined.
    wanted : tuple of str
        Methods that will run.
    folder : pathlib.Path, optional
        Gets ``d_train.jsonl``; mining goes on from it.
    seed : int
    progress : callable, optional
        As `mine` takes it.
    """
    notes = []
    if weights is None and _need_fusion(wanted):
        weights, note = _fusion(fit, store, towers, engine, folder, seed, progress)
        notes.append(note)
    elif weights is not None:
        notes.append("fusion weights: as given")
    agreement: FactualAgreement | None = None
    reason = "no finding labels are known for the pairs"
    if "factmm-rag" in wanted:
        source = facts_from or fit
        try:
            if source is None:
                raise InputError(reason)
            agreement = learn_agreement(source)
            notes.append(f"factmm-rag: map learned from {agreement.pairs} pairs whose labels agree")
        except InputError as error:
            reason = str(error)
    return Learned(weights or FusionWeights(), agreement, reason, tuple(notes))


def _need_fusion(wanted: tuple[str, ...]) -> bool:
    return not wanted or bool({"mcr", "mcr+ifa", "pasta", "hard-mask"} & {*wanted})


def _fusion(
    fit: EmbeddedSet | None,
    store: PairStore,
    towers: DualTower,
    engine: LlavaEngine,
    folder: Path | None,
    seed: int,
    progress: Callable[[int, int, int], None] | None,
) -> tuple[FusionWeights, str]:
    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence

    if fit is None or not len(fit):
        return FusionWeights(), "fusion weights: equal, there are no questions to learn them from"
    if not fit.pair_ids:
        return FusionWeights(), "fusion weights: none, there are no pairs to score"
    settings = MiningSettings(pool="each_term", seed=seed)
    confidence = AnswerConfidence(engine, batch_size=engine.batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        out = (folder or Path(temporary)) / "d_train.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        mine(fit.questions, store, towers, confidence, out, settings, progress)
        found = read_training_set(out)
    examples = [FusionQuestion.of_record(record).example for record in found.usable]
    known = [item for item in examples if item is not None]
    if len(known) < LEAST_EXAMPLES or len({item.patient_id for item in known}) < 3:
        return FusionWeights(), (
            f"fusion weights: equal, {len(known)} of {len(fit)} questions teach something and "
            f"{LEAST_EXAMPLES} are needed"
        )
    learn_on, check_on = split_by_patient([item.patient_id for item in known], _HELD_OUT, seed)
    made = train_fusion([known[n] for n in learn_on], [known[n] for n in check_on])
    values = ", ".join(f"{name} {value:.2f}" for name, value in made.weights.as_dict().items())
    return made.weights, f"fusion weights: {values}, learned from {len(known)} questions"
