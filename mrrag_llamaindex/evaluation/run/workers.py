"""Evaluation by the workers of a cluster: documents are chosen here, and their models answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mrrag_llamaindex.cluster.sharded_log import Shard, Sharded, fill
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet, LeftOut
from mrrag_llamaindex.evaluation.data.prediction import Prediction, PredictionHeader
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.run.answering import Answering, Asked, at_once
from mrrag_llamaindex.evaluation.run.records import HarnessSettings
from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
from mrrag_llamaindex.learning.mining.workers import Raters

if TYPE_CHECKING:
    from mrrag_llamaindex.cluster.pool import Pool
    from mrrag_llamaindex.files.line_log import LineLog
    from mrrag_llamaindex.generation.interface import Engine


@dataclass(frozen=True)
class EngineFacts:
    """What a run depends on of its engine.

    Attributes
    ----------
    identity : str
        As `Engine.identity`.
    critical_layers : tuple of int
    depth : int
        Layers of the model.
    batch_size : int
    note : str
        About the critical layers.
    """

    identity: str
    critical_layers: tuple[int, ...]
    depth: int
    batch_size: int
    note: str = ""

    @classmethod
    def of(cls, engine: Engine, note: str = "") -> EngineFacts:
        """Return those of an engine."""
        return cls(
            engine.identity,
            tuple(engine.loaded.critical_layers),
            engine.planner.depth,
            engine.batch_size,
            note,
        )


class Answerer:
    """What a worker holds: an engine, and what goes with it.

    Parameters
    ----------
    load : callable
        Returns the engine, and a note about its layers.
    """

    def __init__(self, load: Callable[[], tuple[Engine, str]]) -> None:
        self.engine, self.note = load()

    @cached_property
    def confidence(self) -> AnswerConfidence:
        """Its confidence in gold answers."""
        return AnswerConfidence(self.engine, batch_size=self.engine.batch_size)


class AnsweringWorkers:
    """Workers in the place of an engine.

    Parameters
    ----------
    pool : Pool
        Whose context is an `Answerer`.

    Attributes
    ----------
    facts : EngineFacts
    raters : Raters
        The same workers, for mining.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.facts: EngineFacts = pool.ask(_facts)
        self.raters = Raters(pool, _confidence)

    def sharded(
        self,
        log: LineLog[PredictionHeader, Prediction],
        method: Method,
        data: EmbeddedSet,
        settings: HarnessSettings,
    ) -> Sharded[PredictionHeader, Prediction]:
        """Divide a method's answers to a set as a single process would."""
        task = settings.task

        def asked(row: int) -> Asked:
            one = Asked.of(method, data, row)
            return replace(one, item=one.item.portable())

        return Sharded(
            log,
            [item.question_id for item in data.questions],
            range(0, len(data), at_once(self.facts.batch_size)),
            asked,
            # What has ranked is not needed any more, and may be large.
            (
                replace(method, ranking=None),
                settings.max_new_tokens,
                task.weighs_options,
                task.keeps_golds,
            ),
        )

    def fill(
        self, logs: Sequence[Sharded[PredictionHeader, Prediction]]
    ) -> Iterator[tuple[str, int, dict[tuple[str, str], LeftOut]]]:
        """Have all answers written; yield method, number of them, and what could not be asked."""
        for log, count, left_out in fill(logs, self._pool, _answer):
            yield log.log.header.method, count, left_out or {}


def _facts(answerer: Answerer, _: None) -> EngineFacts:
    return EngineFacts.of(answerer.engine, answerer.note)


def _confidence(answerer: Answerer) -> AnswerConfidence:
    return answerer.confidence


def _answer(
    answerer: Answerer, shard: Shard[PredictionHeader, Prediction]
) -> dict[tuple[str, str], LeftOut]:
    method, max_new_tokens, weighs_options, keeps_golds = shard.about
    answering = Answering(answerer.engine, max_new_tokens, weighs_options)
    with shard.opened() as (log, items):
        if items:
            answers = answering.generated(method, items)
            log.append(answers if keeps_golds else [replace(one, gold="") for one in answers])
    return answering.left_out
