"""The noise study by the workers of a cluster: each asks one batch of one level at a time.

What a batch gave is written into a log of its level, so that a study which was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrrag_llamaindex.cluster.sharded_log import Shard, Sharded, fill
from mrrag_llamaindex.evaluation.noise.asking import Level, cells
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.evaluation.noise.result import Cell, Contestant
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.files.line_format import LineFormat
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.generation.checkpoints.profile_store import model_identity

if TYPE_CHECKING:
    from mrrag_llamaindex.cluster.pool import Pool


@dataclass(frozen=True)
class NoiseHeader:
    """What every record of a level depends on.

    Attributes
    ----------
    model : str
        Identity of the generator.
    questions : str
        Digest of all that is asked.
    settings : dict
        The level, the contestants, the watched layers, and how prompts are batched.
    """

    model: str
    questions: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseRecord:
    """What all contestants did with one question.

    Attributes
    ----------
    row : str
        Number of the question.
    values : tuple of tuple of float or None
        For each contestant the fields of its `Cell`; None for NaN.
    """

    row: str
    values: tuple[tuple[float | None, ...], ...]


NOISE_FILE = LineFormat(
    "noise", 1, NoiseHeader, NoiseRecord, "readings of mrrag noise", "a reading", key="row"
)


class SweepWorkers:
    """Workers in the place of a sweep.

    Parameters
    ----------
    sweep : PrefixSweep
        Divides the questions into batches, and asks nothing.
    pool : Pool
        Whose context is such a sweep.
    folder : pathlib.Path
        For the logs.
    """

    def __init__(self, sweep: PrefixSweep, pool: Pool, folder: Path) -> None:
        self.sweep = sweep
        self.engine = sweep.engine
        self.depth = sweep.depth
        self._pool = pool
        self._folder = folder
        self._model = model_identity(sweep.engine.loaded)

    def cells(
        self,
        questions: Sequence[NoiseQuestion],
        contestants: Sequence[Contestant],
        levels: Sequence[Level],
        layers: Sequence[int],
    ) -> Iterator[list[Cell]]:
        """Do what `asking.cells` does."""
        portable = [replace(q, image=self.sweep.prepared(q.image)) for q in questions]
        digest = _digest(questions)
        with ExitStack() as stack:
            logs = []
            for level in levels:
                header = self._header(digest, contestants, level, layers)
                path = self._folder / f"{json_digest(header.settings | vars(header), 16)}.jsonl"
                log = stack.enter_context(LineLog(path, NOISE_FILE, header, keep=False))
                about = list(contestants), level, list(layers)
                logs.append(self._sharded(log, portable, about))
            for _ in fill(logs, self._pool, _measure):
                pass
        for item in logs:
            yield _read(item.log.path, len(questions), len(contestants))

    def _header(
        self,
        questions: str,
        contestants: Sequence[Contestant],
        level: Level,
        layers: Sequence[int],
    ) -> NoiseHeader:
        settings = {
            "adversarial": level[0],
            "irrelevant": level[1],
            "contestants": list(map(repr, contestants)),
            "layers": list(layers),
            "batch_size": self.sweep.batch_size,
        }
        return NoiseHeader(self._model, questions, settings)

    def _sharded(
        self, log: LineLog[NoiseHeader, NoiseRecord], questions: list[NoiseQuestion], about: Any
    ) -> Sharded[NoiseHeader, NoiseRecord]:
        hostile, irrelevant = about[1]
        requests = [q.request(irrelevant, adversarial=hostile) for q in questions]
        batches = self.sweep.divided(requests, [q.image for q in questions])
        rows = [row for batch in batches for row in batch]
        starts = list(accumulate(map(len, batches), initial=0))[:-1]

        def item_of(place: int) -> tuple[int, NoiseQuestion]:
            return rows[place], questions[rows[place]]

        return Sharded(log, list(map(str, rows)), starts, item_of, about)


def _digest(questions: Sequence[NoiseQuestion]) -> str:
    documents = [repr((q.relevant, q.irrelevant, q.contradicting)) for q in questions]
    asked = [[q.question_id, q.question, q.truth, *q.order] for q in questions]
    return json_digest([asked, documents], 16)


def _measure(sweep: PrefixSweep, shard: Shard[NoiseHeader, NoiseRecord]) -> None:
    contestants, level, layers = shard.about
    with shard.opened() as (log, items):
        if not items:
            return
        (outcome,) = cells(sweep, [question for _, question in items], contestants, [level], layers)
        values = np.array([astuple(cell) for cell in outcome])
        log.append(
            [
                NoiseRecord(str(row), tuple(map(_plain, values[:, :, place])))
                for place, (row, _) in enumerate(items)
            ]
        )


def _plain(values: Any) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _read(path: Path, questions: int, contestants: int) -> list[Cell]:
    fields = len(Cell.__dataclass_fields__)
    values = np.full((contestants, fields, questions), np.nan)
    for record in NOISE_FILE.stream(path):
        values[:, :, int(record.row)] = np.array(record.values, dtype=float)
    return [Cell(*rows) for rows in values]
