"""The training questions that a policy is learned from, with their documents, on one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError, PromptError
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.mcr.vote import YES_NO

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.ranking import Ranking
    from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptDocument
    from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

LEAST = 20
"""Questions below which nothing is learned."""


@dataclass(frozen=True, eq=False)
class TrainingQuestion:
    """One question of the training set.

    Attributes
    ----------
    row : int
        In the set.
    item : GoldQuestion
    gold : str
    patient : str
    image : PreparedImage or None
    documents : list of PromptDocument
        Those that its method would read, best first.
    """

    row: int
    item: GoldQuestion
    gold: str
    patient: str
    image: PreparedImage | None
    documents: list[PromptDocument]


def inner_engine(engine: object) -> LlavaEngine:
    """Return an engine whose layers can be looked into.

    Raises
    ------
    InputError
        If it is none.
    """
    if isinstance(engine, LlavaEngine):
        return engine
    raise InputError(
        "it is learned from what the layers of a model compute, which neither workers nor a "
        "serving engine show: run it in one process with engine transformers"
    )


def training_questions(
    engine: LlavaEngine, data: EmbeddedSet | None, ranking: Ranking, most: int
) -> Iterator[TrainingQuestion]:
    """Yield at most so many questions that have documents.

    Raises
    ------
    InputError
        If there are too few questions to learn anything from.
    """
    if data is None or not len(data):
        raise InputError(
            "there are no training questions to learn it from: they are a part of the validation "
            "share, and only where fusion weights are learned, too"
        )
    if len(data) < LEAST:
        raise InputError(
            f"{len(data)} training questions are too few to learn from; {LEAST} are needed"
        )
    for row, item in enumerate(data.questions[:most]):
        documents = ranking.documents(data, row)
        if documents:
            read = engine.read_image(load_image(item.image, what="query image"))
            yield TrainingQuestion(row, item, data.golds[row], data.patient(row), read, documents)


def readable_prompts(
    engine: LlavaEngine, data: EmbeddedSet | None, ranking: Ranking, most: int
) -> Iterator[tuple[TrainingQuestion, Prompt]]:
    """Yield those of at most so many yes/no questions that the model can read, with their prompts.

    Raises
    ------
    InputError
        If answers are not yes and no, or there are too few questions to learn anything from.
    """
    if data is not None and not set(data.golds) <= set(YES_NO):
        raise InputError("it learns from right and wrong answers, and knows those to yes or no")
    for asked in training_questions(engine, data, ranking, most):
        try:
            prompt = engine.prompt(PromptRequest(asked.item.question, asked.documents), asked.image)
        except PromptError:
            continue
        yield asked, prompt


def batches(count: int, size: int) -> list[range]:
    """Cut the rows 0 to ``count - 1`` into parts of at most so many."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
