"""D_train: which retrieved documents lead a generator to the gold answer.

For each training question the fused score retrieves candidates, the generator is asked with each
of them alone, and its confidence in the gold answer labels them: the most confident is the
positive, the m least confident are the negatives (MR-RAG, section on training the retriever).
The generator is asked through an `AnswerConfidence`, which this module does not load.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import ImageError, InputError, PromptError, TowerError
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.learning.mining.candidate_search import drawn_ids, find_candidates
from mrrag_llamaindex.learning.mining.records import (
    DIGITS,
    TRAINING_FILE,
    TrainingHeader,
    TrainingRecord,
    rounded,
    terms_of,
)
from mrrag_llamaindex.learning.mining.settings import MiningSettings, label
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
        records: Sequence[TrainingRecord],
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
        usable = sum(record.trains for record in records)
        seconds = time.perf_counter() - started
        return cls(len(records) - resumed, resumed, usable, tuple(skipped), seconds)


def mine(
    questions: Sequence[GoldQuestion],
    store: PairStore,
    towers: DualTower,
    confidence: AnswerConfidence,
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
        The generator.
    out
        The file; one question that was in hand is all that a kill costs.
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
    with LineLog(out, TRAINING_FILE, header) as log:
        known = {record.question_id for record in log.records}
        resumed = len(known)
        for number, item in enumerate(drawn, start=1):
            if item.question_id not in known:
                try:
                    log.append([mine_question(item, store, towers, confidence, settings, pair_ids)])
                except (ImageError, InputError, PromptError, TowerError) as error:
                    skipped.append(Skipped(number, item.question_id, str(error)))
            if progress is not None:
                progress(number, len(drawn), resumed)
        return MiningReport.of(log.records, resumed, skipped, started)


def mine_question(
    item: GoldQuestion,
    store: PairStore,
    towers: DualTower,
    confidence: AnswerConfidence,
    settings: MiningSettings,
    pair_ids: Sequence[str] = (),
) -> TrainingRecord:
    """Retrieve the candidates of one question, ask with each, and label them.

    `pair_ids` are those of the store, to draw some candidates from.

    Raises
    ------
    InputError, ImageError, TowerError, PromptError
        If the question cannot be used, or no candidate is left for it.
    """
    image = load_image(item.image, what="query image")
    q_image = towers.embed_images([image])[0]
    q_text = towers.embed_texts([item.question])[0]
    others = drawn_ids(pair_ids, settings, item.question_id)
    hits = find_candidates(store, q_image, q_text, settings, item.exclusion(), others)
    reports = [None, *(hit.report for hit in hits)]
    unaided, *rated = confidence.rate(image, item.question, item.answer, reports)
    readable = [(hit, value) for hit, value in zip(hits, rated, strict=True) if value is not None]
    if not readable or unaided is None:
        raise InputError("the store holds no document for it that the model can read")
    values = [round(value, DIGITS) for _, value in readable]
    if not all(map(math.isfinite, [*values, unaided])):
        raise InputError("the model's confidence is not a finite number")
    positive, negatives = label(values, settings.negatives, settings.margin)
    return TrainingRecord(
        question_id=item.question_id,
        patient_id=item.patient_id,
        **terms_of([hit for hit, _ in readable]),
        pair_ids=tuple(hit.pair_id for hit, _ in readable),
        confidence=tuple(values),
        positive=positive,
        negatives=negatives,
        unaided=round(unaided, DIGITS),
        query_image=rounded(q_image),
        query_text=rounded(q_text),
    )
