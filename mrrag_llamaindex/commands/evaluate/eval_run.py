"""From data, towers and a model to the answers of every method: the work of ``mrrag eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrrag_llamaindex.commands.evaluate.data import embedded, unreadable
from mrrag_llamaindex.commands.progress import progress_bar

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet, Problem
    from mrrag_llamaindex.evaluation.data.parts import Parts
    from mrrag_llamaindex.evaluation.run.records import Evaluation, HarnessSettings
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.towers.protocol import DualTower


def run_methods(
    sets: Sequence[EvaluationSet],
    towers: DualTower,
    engine: LlavaEngine,
    settings: HarnessSettings,
    weights: AnyWeights | None,
    out: Path | None,
    validation: float,
    synthetic: bool,
) -> tuple[Evaluation, Parts, list[Problem]]:
    """Embed, learn, tune and answer; without ``weights`` they are learned.

    The problems are those of pairs and questions that the towers could not read.
    """
    from mrrag_llamaindex.evaluation.data.parts import Parts, split_parts
    from mrrag_llamaindex.evaluation.methods.learning import learn
    from mrrag_llamaindex.evaluation.run.harness import Harness

    with embedded(sets, towers, None if synthetic else out) as (data, store):
        if synthetic:
            fit, tune, *tests = data
            parts = Parts(tuple(tests), fit, tune)
        else:
            parts = split_parts(data[0], validation, settings.seed, learns=weights is None)
        with progress_bar("questions mined") as advance:
            learned = learn(
                parts.fit,
                store,
                towers,
                engine,
                facts_from=data[0],
                weights=weights,
                wanted=settings.methods,
                folder=out,
                seed=settings.seed,
                progress=advance,
            )
        with progress_bar("answers") as advance:
            harness = Harness(
                engine,
                towers.identity,
                settings,
                folder=out,
                progress=lambda method, done, total, resumed: advance(done, total, resumed, method),
            )
            return harness.run(parts.tests, learned, parts.tune), parts, unreadable(data)
