"""D_train: which retrieved documents lead a generator to the gold answer.

For each training question the fused score retrieves candidates, the generator is asked with each
of them alone, and its confidence in the gold answer labels them: the most confident is the
positive, the m least confident are the negatives (MR-RAG, section on training the retriever).
The generator is asked through an `AnswerConfidence`, which this module does not load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.question import UNUSABLE, Candidates, find
from mrrag_llamaindex.learning.mining.records import (
    TRAINING_FILE,
    TrainingHeader,
    TrainingRecord,
)
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.learning.mining.workers import Raters
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, digest_of
from mrrag_llamaindex.store.pair import Skipped

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower


@dataclass(frozen=True)
class MiningReport:
    """What a run did.

    Attributes
    ----------
    mined, resumed : int
        Questions mined now, and those found in the file.
    usable : int
        Those of both from which there is something to learn, see `TrainingRecord.trains`.
    skipped : tuple of Skipped
        Questions without a record, with the reason; a question's id stands as ``pair_id``.
    seconds : float
    """

    mined: int
    resumed: int
    usable: int
    skipped: tuple[Skipped, ...]
    seconds: float

    @classmethod
    def of(
        cls,
        records: Iterable[TrainingRecord],
        resumed: int,
        skipped: Sequence[Skipped],
        started: float,
    ) -> MiningReport:
        """Return the report of a run whose file holds these records now.

        Parameters
        ----------
        records
            Those of this run and of earlier ones.
        resumed
            How many are of earlier ones.
        skipped
            Questions without a record.
        started
            ``time.perf_counter()`` at the beginning of the run.
        """
        count = usable = 0
        for record in records:
            count += 1
            usable += record.trains
        seconds = time.perf_counter() - started
        return cls(count - resumed, resumed, usable, tuple(skipped), seconds)


def mine(
    questions: Sequence[GoldQuestion],
    store: PairStore,
    towers: DualTower,
    confidence: AnswerConfidence | Raters,
    out: str | os.PathLike[str],
    settings: MiningSettings | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> MiningReport:
    """Mine training records into a file, going on where an earlier run was stopped.

    Parameters
    ----------
    questions
        With distinct ids.
    store
        Made with the same towers; must stay as it is until all questions are mined.
    towers
        The dual encoder.
    confidence
        The generator, or workers that have one each.
    out
        The file; one question that was in hand, for each worker, is all that a kill costs.
    settings
        Default: `MiningSettings()`.
    progress
        Called after each question with the number handled, the number of all questions, and how
        many of those handled were in the file already.

    Raises
    ------
    StoreError
        If the store was made with other towers.
    InputError
        If two questions share an id, or the file was begun with other towers, another model,
        other questions, another store or other settings.
    """
    settings = settings or MiningSettings()
    store.check_towers(towers.identity)
    drawn = settings.drawn(questions)
    if len({item.question_id for item in drawn}) != len(drawn):
        raise InputError("two training questions have the same question_id")
    about: dict[str, Any] = {
        "weights": settings.weights.as_dict(),
        "candidates": settings.candidates,
        "pool": settings.pool,
        "margin": settings.margin,
        "pairs": len(store),
        "questions": digest_of(drawn),
    }
    header = TrainingHeader(
        towers.identity, confidence.identity, settings.seed, settings.negatives, about
    )
    pair_ids = store.pair_ids() if settings.pool == "mixed" else []
    started = time.perf_counter()
    skipped: list[Skipped] = []
    with LineLog(out, TRAINING_FILE, header, keep=False) as log:
        resumed = len(log.keys)

        def candidates(place: int) -> Candidates:
            return find(drawn[place], store, towers, settings, pair_ids)

        if isinstance(confidence, Raters):
            parts = confidence.rate(log, drawn, candidates, settings)
        else:
            parts = _rate(log, drawn, candidates, confidence, settings)
        for number, reasons in parts:
            skipped += reasons
            if progress is not None:
                progress(number, len(drawn), resumed)
    return MiningReport.of(TRAINING_FILE.stream(out), resumed, skipped, started)


def _rate(
    log: LineLog[TrainingHeader, TrainingRecord],
    drawn: Sequence[GoldQuestion],
    candidates: Callable[[int], Candidates],
    confidence: AnswerConfidence,
    settings: MiningSettings,
) -> Iterator[tuple[int, list[Skipped]]]:
    """Label the questions one by one; yield how many are dealt with, and which were skipped."""
    for place, item in enumerate(drawn):
        reasons = []
        if item.question_id not in log.keys:
            try:
                log.append([candidates(place).labelled(confidence, settings)])
            except UNUSABLE as error:
                reasons.append(Skipped(place + 1, item.question_id, str(error)))
        yield place + 1, reasons
