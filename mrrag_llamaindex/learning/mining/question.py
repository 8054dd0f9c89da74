"""One training question: its candidates, found by the score, and labelled by a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import ImageError, InputError, PromptError, TowerError
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.learning.mining.candidate_search import drawn_ids, find_candidates
from mrrag_llamaindex.learning.mining.records import DIGITS, TrainingRecord, rounded, terms_of
from mrrag_llamaindex.learning.mining.settings import MiningSettings, label
from mrrag_llamaindex.store.hits import Hit
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower

UNUSABLE: Final = (ImageError, InputError, PromptError, TowerError)
"""What is said of a single question, which is then skipped."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What was found for a question.

    Attributes
    ----------
    item : GoldQuestion
    hits : tuple of Hit
        Best first.
    q_image, q_text : ndarray, shape (n,), float32
    image : PIL.Image.Image or None
        That of the question, decoded; None: it is read anew.
    """

    item: GoldQuestion
    hits: tuple[Hit, ...]
    q_image: NDArray[np.float32]
    q_text: NDArray[np.float32]
    image: Image | None

    def portable(self) -> Candidates:
        """Return it for another process, which reads the image anew."""
        return replace(self, item=self.item.portable(), image=None)

    def labelled(self, confidence: AnswerConfidence, settings: MiningSettings) -> TrainingRecord:
        """Ask with each candidate alone, and label them.

        Raises
        ------
        InputError, ImageError, PromptError
            If the question cannot be used, or no candidate is left for it.
        """
        item = self.item
        image = self.image or load_image(item.image, what="query image")
        reports = [None, *(hit.report for hit in self.hits)]
        unaided, *rated = confidence.rate(image, item.question, item.answer, reports)
        readable = [
            (hit, value) for hit, value in zip(self.hits, rated, strict=True) if value is not None
        ]
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
            query_image=rounded(self.q_image),
            query_text=rounded(self.q_text),
        )


def find(
    item: GoldQuestion,
    store: PairStore,
    towers: DualTower,
    settings: MiningSettings,
    pair_ids: Sequence[str] = (),
) -> Candidates:
    """Retrieve the candidates of one question.

    `pair_ids` are those of the store, to draw some candidates from.

    Raises
    ------
    InputError, ImageError, TowerError
        If the question cannot be used.
    """
    image = load_image(item.image, what="query image")
    q_image = towers.embed_images([image])[0]
    q_text = towers.embed_texts([item.question])[0]
    others = drawn_ids(pair_ids, settings, item.question_id)
    hits = find_candidates(store, q_image, q_text, settings, item.exclusion(), others)
    return Candidates(item, tuple(hits), q_image, q_text, image)
