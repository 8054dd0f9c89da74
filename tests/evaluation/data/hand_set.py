"""An evaluation set with vectors written by hand: no towers, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion


def unit(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, dtype=np.float32)
    return array / np.linalg.norm(array)


def hand_set(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]],
    questions: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    patients: Sequence[str | None] | None = None,
    studies: Sequence[str | None] | None = None,
    asked: Sequence[Mapping[str, str]] | None = None,
    facts: Mapping[str, Mapping[str, bool]] | None = None,
) -> EmbeddedSet:
    """Make a set of pairs p0, p1, ... and questions q0, q1, ..., each an image and a text vector.

    Vectors are taken as they are: scale them to make a score of any value.
    """
    count = len(pairs)
    own = asked or [{"patient_id": f"asked {n}"} for n in range(len(questions))]
    return EmbeddedSet(
        name="hand",
        questions=tuple(
            GoldQuestion(f"q{n}", Image.new("RGB", (32, 32)), "Is it?", "yes", **own[n])
            for n in range(len(questions))
        ),
        golds=("yes",) * len(questions),
        pair_ids=tuple(f"p{n}" for n in range(count)),
        reports=tuple(f"report {n}" for n in range(count)),
        patients=tuple(patients or [f"patient {n}" for n in range(count)]),
        studies=tuple(studies or [None] * count),
        documents=np.array([[*image, *text] for image, text in pairs], dtype=np.float32),
        q_images=np.array([image for image, _ in questions], dtype=np.float32),
        q_texts=np.array([text for _, text in questions], dtype=np.float32),
        facts=facts or {},
    )


def scored_set(scores: Sequence[float]) -> EmbeddedSet:
    """Make a set with one question whose image-to-text similarities are the given ones."""
    return hand_set([((0, 0), (score, 0)) for score in scores], [((1, 0), (0, 1))])
