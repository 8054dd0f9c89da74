"""Mining by the workers of a cluster: candidates are found here, and the workers' generators rate.

Retrieval takes a hundredth of the time of 15 prompts, and so any store serves, one in memory, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mrrag_llamaindex.cluster.sharded_log import Shard, Sharded, fill
from mrrag_llamaindex.learning.mining.question import UNUSABLE, Candidates
from mrrag_llamaindex.learning.mining.records import TrainingHeader, TrainingRecord
from mrrag_llamaindex.store.pair import Skipped

if TYPE_CHECKING:
    from mrrag_llamaindex.cluster.pool import Pool
    from mrrag_llamaindex.files.line_log import LineLog
    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
    from mrrag_llamaindex.learning.mining.settings import MiningSettings
    from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

QUESTIONS = 8
"""Of a shard. It names the shard's file: another number begins others."""

_Item: TypeAlias = Candidates | Skipped


@dataclass(frozen=True)
class Raters:
    """Workers that rate.

    Attributes
    ----------
    pool : Pool
    confidence_of : callable
        From a worker's context to its `AnswerConfidence`; importable by name.
    """

    pool: Pool
    confidence_of: Callable[[Any], AnswerConfidence]

    @property
    def identity(self) -> str:
        """As `AnswerConfidence.identity`."""
        identity: str = self.pool.ask(partial(_identity, self.confidence_of))
        return identity

    def rate(
        self,
        log: LineLog[TrainingHeader, TrainingRecord],
        drawn: Sequence[GoldQuestion],
        candidates: Callable[[int], Candidates],
        settings: MiningSettings,
    ) -> Iterator[tuple[int, list[Skipped]]]:
        """Label all questions; yield how many are dealt with, and which were skipped."""

        def item_of(place: int) -> _Item:
            try:
                return candidates(place).portable()
            except UNUSABLE as error:
                return Skipped(place + 1, drawn[place].question_id, str(error))

        names = [item.question_id for item in drawn]
        shards = Sharded(log, names, range(0, len(names), QUESTIONS), item_of, settings)
        rows = {item.question_id: row for row, item in enumerate(drawn, start=1)}
        done = 0
        for _, count, reasons in fill([shards], self.pool, partial(_label, self.confidence_of)):
            done += count
            yield done, [Skipped(rows[name], name, reason) for name, reason in reasons or ()]


def itself(confidence: AnswerConfidence) -> AnswerConfidence:
    """Return the context of workers that make nothing else."""
    return confidence


def _identity(confidence_of: Callable[[Any], AnswerConfidence], context: Any, _: None) -> str:
    return confidence_of(context).identity


def _label(
    confidence_of: Callable[[Any], AnswerConfidence],
    context: Any,
    shard: Shard[TrainingHeader, TrainingRecord],
) -> list[tuple[str, str]]:
    """Write the records of a shard; return which questions cannot be used, and why."""
    confidence = confidence_of(context)
    skipped = []
    with shard.opened() as (log, items):
        for item in items:
            if isinstance(item, Skipped):
                skipped.append((item.pair_id or "", item.reason))
                continue
            try:
                log.append([item.labelled(confidence, shard.about)])
            except UNUSABLE as error:
                skipped.append((item.item.question_id, str(error)))
    return skipped
