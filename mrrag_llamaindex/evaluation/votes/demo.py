"""One real question end to end: a store of real cases, retrieval, the vote, the picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import is_closed, pair_of
from mrrag_llamaindex.evaluation.votes.shipped import (
    ShippedTowers,
    shipped_questions,
    shipped_setting,
)
from mrrag_llamaindex.integration.answers.picture import draw_answer
from mrrag_llamaindex.integration.answers.vote import VoteResult, ask_by_vote
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.mcr.vote import asks_yes_or_no, normal_answer
from mrrag_llamaindex.plots import save
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

ORIGIN = "a real case of VQA-RAD (CC0, doi:10.1038/sdata.2018.251)"
VECTORS_NOTE = (
    "vectors: computed beforehand by MobileNetV2 and MiniLM, and looked up; no encoder is loaded"
)


@dataclass(frozen=True)
class RealDemo:
    """What the demo found.

    Attributes
    ----------
    result : VoteResult
    truth : str
        The gold answer.
    images, pairs : int
        In the store.
    image, store : pathlib.Path
    picture : pathlib.Path or None
    no_picture : str
        Why there is no picture.
    """

    result: VoteResult
    truth: str
    images: int
    pairs: int
    image: Path
    store: Path
    picture: Path | None
    no_picture: str

    @property
    def right(self) -> bool:
        """Whether the vote gave the gold answer."""
        return normal_answer(self.result.text) == normal_answer(self.truth)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            **self.result.as_dict(),
            "truth": self.truth,
            "right": self.right,
            "images": self.images,
            "pairs": self.pairs,
            "picture": None if self.picture is None else str(self.picture),
            "store": str(self.store),
            "synthetic": False,
            "origin": ORIGIN,
            "vectors": VECTORS_NOTE,
        }


def run_real_demo(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> RealDemo:
    """Run the demo in folder ``out``; a second run reuses its store.

    Parameters
    ----------
    out : pathlib.Path
        Gets ``real/`` with the store, and ``answer-<seed>.png``.
    seed : int
        Which of the test questions that ask for yes or no: the first, the second, ...
    say : callable
        Takes a line of progress.
    """
    started = time.perf_counter()
    asked = shipped_questions()
    closed = [q for q in asked.test if is_closed(q) and asks_yes_or_no(q.question)]
    question = closed[seed % len(closed)]
    setting = shipped_setting()
    folder = out / "real"
    say(f"embedding {len(asked.training)} real cases into a Chroma store")
    weights = FusionWeights(**{"image_text": 0.0, **setting["weights"]})
    index = MRRAGIndex.from_pairs(
        map(pair_of, asked.training),
        ShippedTowers(),
        folder / "store",
        weights=weights,
    )
    say("asking")
    result = ask_by_vote(
        *(index, str(question.image), question.question),
        documents=setting["documents"],
        temperature=setting["temperature"],
        # The test questions are about the same images: never about their own.
        exclude=Exclusion(patient_ids=frozenset({str(question.patient_id)})),
    )
    result.seconds["total"] = time.perf_counter() - started
    picture, reason = _drawn(folder / f"answer-{seed}.png", question, result)
    return RealDemo(
        result,
        question.answer,
        len({item.patient_id for item in asked.training}),
        len(asked.training),
        Path(str(question.image)),
        folder / "store",
        picture,
        reason,
    )


def _drawn(path: Path, question: GoldQuestion, result: VoteResult) -> tuple[Path | None, str]:
    title = f"{ORIGIN}; truth: {question.answer}"
    try:
        return save(draw_answer(str(question.image), result, title=title), path), ""
    except MRRAGError as error:
        return None, str(error)
