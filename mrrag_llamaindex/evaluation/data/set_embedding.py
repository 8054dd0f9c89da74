"""Embed an evaluation set: its pairs into a store, and every question's image and text once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL.Image import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet, LeftOut, Vectors
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.vote import answer_of
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.ingest.embedding import embed_pairs
from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.towers.protocol import DualTower

_AT_ONCE = 64


def embed_set(
    data: EvaluationSet,
    towers: DualTower,
    store: PairStore,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddedSet:
    """Embed the pairs of a set into a store, and its labelled questions.

    Parameters
    ----------
    data : EvaluationSet
        Questions without a label are not asked; the set itself lists why they have none.
    towers : DualTower
    store : PairStore
        Made with these towers; what is in it already is not embedded again.
    progress : callable, optional
        Takes the number of items embedded and the number of all.

    Raises
    ------
    InputError
        If no question can be used, or none of the pairs. A set without pairs is asked as it is:
        only methods that retrieve nothing can be run on it.
    """
    left_out: list[LeftOut] = []
    blocks = Blocks.of(towers)
    total = len(data.pairs) + len(data.questions)

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, total)

    # A report whose image is missing can still be read: its image half is zero.
    report = ingest_pairs(data.pairs, store, towers, missing="keep", progress=advance)
    left_out += [LeftOut(item.pair_id or f"row {item.row}", item.reason) for item in report.skipped]
    stored = store.get([pair.pair_id for pair in data.pairs])
    pairs = [pair for pair in stored.values() if pair.report.strip()]
    if data.pairs and not pairs:
        raise InputError(f"{data.name}: no pair with a report can be used as a document")
    labelled = [item for item in data.questions if item.question_id in data.labels]
    unread: list[LeftOut] = []
    usable, q_images, q_texts = _embed_questions(
        labelled, towers, left_out, unread, lambda done: advance(len(data.pairs) + done)
    )
    if not usable:
        raise InputError(
            f"{data.name}: none of the {len(data.questions)} questions can be asked; "
            + (f"the first: {left_out[-1].reason}" if labelled else "none of them has a label")
        )
    return EmbeddedSet(
        name=data.name,
        questions=tuple(usable),
        golds=tuple(data.labels[item.question_id] for item in usable),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        reports=tuple(pair.report for pair in pairs),
        patients=tuple(pair.patient_id for pair in pairs),
        studies=tuple(pair.study_id for pair in pairs),
        documents=_documents(pairs, blocks),
        q_images=q_images,
        q_texts=q_texts,
        facts=data.facts,
        left_out=tuple(left_out),
        towers_blocks=blocks,
        answers=_answers(pairs),
        unread=tuple(unread),
        task=data.task,
        options=data.options,
    )


def _answers(pairs: Sequence[StoredPair]) -> tuple[str | None, ...]:
    answers = tuple(answer_of(pair.metadata) for pair in pairs)
    return answers if any(answers) else ()


def _documents(pairs: Sequence[StoredPair], blocks: Blocks) -> Vectors:
    none = np.zeros((0, blocks.length), dtype=np.float32)
    return np.stack([pair.vector for pair in pairs]) if pairs else none


def _embed_questions(
    questions: Sequence[GoldQuestion],
    towers: DualTower,
    left_out: list[LeftOut],
    unread: list[LeftOut],
    advance: Callable[[int], None],
) -> tuple[list[GoldQuestion], Vectors, Vectors]:
    """Embed texts, and every image once, however many questions are asked about it.

    A question in words that the towers do not know is asked all the same: what is retrieved for it
    is found by its image alone (a vector of zeros adds nothing to any score).
    """
    images = {image_key(item): Pair(item.image, None, "query") for item in questions}
    texts = {item.question: Pair(None, item.question, "query") for item in questions}
    image_vectors, no_image = _embedded(images, towers, "image", advance)
    text_vectors, no_text = _embedded(texts, towers, "text")
    usable = []
    for item in questions:
        reason = no_image.get(image_key(item))
        if reason is not None:
            left_out.append(LeftOut(item.question_id, reason))
            continue
        usable.append(item)
        if item.question in no_text:
            unread.append(LeftOut(item.question_id, no_text[item.question]))
    blocks = Blocks.of(towers)
    if not usable:
        return [], np.zeros((0, blocks.image), np.float32), np.zeros((0, blocks.text), np.float32)
    q_images = np.array([image_vectors[image_key(item)] for item in usable])
    nothing = np.zeros(blocks.text, np.float32)
    q_texts = np.array([text_vectors.get(item.question, nothing) for item in usable])
    return usable, q_images, q_texts


def _embedded(
    items: Mapping[Any, Pair],
    towers: DualTower,
    half: Literal["image", "text"],
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[Any, Vectors], dict[Any, str]]:
    """Return vectors, and the reasons of those that have none, by key."""
    keys = list(items)
    vectors: dict[Any, Vectors] = {}
    problems: dict[Any, str] = {}
    for start in range(0, len(keys), _AT_ONCE):
        chunk = keys[start : start + _AT_ONCE]
        embedded = embed_pairs([items[key] for key in chunk], towers)
        rows = embedded.image_vectors if half == "image" else embedded.text_vectors
        for place, key in enumerate(chunk):
            if place in embedded.problems:
                problems[key] = embedded.problems[place]
            else:
                vectors[key] = rows[place]
        advance(start + len(chunk))
    return vectors, problems


def image_key(item: GoldQuestion) -> object:
    """Return what is equal for questions about the same image."""
    return id(item.image) if isinstance(item.image, Image) else item.image
