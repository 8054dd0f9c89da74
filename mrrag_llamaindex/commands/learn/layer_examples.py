"""Questions with documents for the search for critical layers: synthetic, or from a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrrag_llamaindex.commands.options import renames_of
from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.learning.layers.blocking import Example
from mrrag_llamaindex.mcr.vote import polarity
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, read_questions

PHANTOM_DOCUMENTS = 4
"""Documents of a synthetic question; half of them are irrelevant."""

_PHANTOM_SEED = 7000  # neither training's nor that of any other trial


def phantom_examples(count: int, seed: int) -> list[Example]:
    """Draw questions about synthetic patients, half of whose documents are irrelevant."""
    half = PHANTOM_DOCUMENTS // 2
    return draw_trials(_PHANTOM_SEED + seed, count, documents=PHANTOM_DOCUMENTS, irrelevant=half)


def table_examples(
    table: Path,
    store: str,
    columns: str,
    images: Path | None,
    count: int,
    documents: int,
    seed: int,
    device: str,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Draw questions from a table, retrieve their documents, and list what cannot be used.

    Parameters
    ----------
    table : pathlib.Path
        See `read_questions`.
    store : str
        Folder or URL; its own towers embed the questions.
    columns : str
        As ``--columns`` takes them.
    images : pathlib.Path or None
    encoding, delimiter : str, optional
        See `read_questions`.
    count : int
        Questions drawn, at most.
    documents : int
        Per question; none is the question's own.
    seed : int
    device : str
        Of the towers.

    Returns
    -------
    examples : list of Example
    left_out : list of dict
        ``question_id`` and ``reason`` of each question that cannot be used.

    Raises
    ------
    InputError
        If table or store cannot be read, or no question is left.
    """
    usable: list[GoldQuestion] = []
    left_out: list[dict[str, Any]] = []
    renames = renames_of(columns)
    for item in read_questions(table, renames, images, encoding=encoding, delimiter=delimiter):
        if not isinstance(item, GoldQuestion):
            left_out.append(_left_out(item.pair_id, f"row {item.row}: {item.reason}"))
        elif polarity(item.answer) is None:
            left_out.append(_left_out(item.question_id, "the answer is neither yes nor no"))
        else:
            usable.append(item)
    drawn = np.random.default_rng(seed).permutation(len(usable))[:count]
    index = MRRAGIndex.from_store(store, device=device)
    examples = list(_examples([usable[place] for place in drawn], index, documents, left_out))
    if not examples:
        first = f"; the first: {left_out[0]['reason']}" if left_out else ""
        raise InputError(f"{table.name} holds no question that can be used{first}")
    return examples, left_out


def _examples(
    questions: list[GoldQuestion], index: Any, documents: int, left_out: list[dict[str, Any]]
) -> Iterator[Example]:
    for item in questions:
        try:
            image = load_image(item.image, what=f"image of question {item.question_id!r}")
            retriever = index.as_retriever(exclude=item.exclusion(), similarity_top_k=documents)
            hits = retriever.hits(item.question, image)
        except MRRAGError as error:
            left_out.append(_left_out(item.question_id, str(error)))
            continue
        evidence = [
            PromptDocument(hit.pair_id, hit.report, hit.score) for hit in hits if hit.report
        ]
        if not evidence:
            left_out.append(_left_out(item.question_id, "no document is left for it"))
            continue
        yield Example(
            PromptRequest(item.question, tuple(evidence[:documents])),
            image,
            polarity(item.answer) or "",
            item.patient_id or f"question:{item.question_id}",
        )


def _left_out(question_id: str | None, reason: str) -> dict[str, Any]:
    return {"question_id": question_id, "reason": reason}
