"""D_train from labels: which pairs of other patients have the label of the pair that asks.

No generator is asked. Every pair of the store asks once for each label that it has, with its own
image; a candidate of the same value is right, one of another value is wrong, and one without the
label is left out. What is asked is a text of the user's, because a report would find itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.candidate_search import drawn_ids, find_candidates
from mrrag_llamaindex.learning.mining.mining import MiningReport
from mrrag_llamaindex.learning.mining.records import (
    TRAINING_FILE,
    TrainingHeader,
    TrainingRecord,
    rounded,
    terms_of,
)
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.learning.mining.support import EVEN
from mrrag_llamaindex.store.hits import Exclusion, StoredPair
from mrrag_llamaindex.store.pair import Skipped
from mrrag_llamaindex.store.protocol import PairStore

if TYPE_CHECKING:
    from mrrag_llamaindex.towers.protocol import DualTower

QUESTION = "What is the {label}?"
"""What is asked about a label, where nothing else is said."""

CANDIDATES = 60
"""Candidates of a question: labels cost nothing, so there are more than a generator is asked."""

_AT_ONCE = 256


@dataclass(frozen=True)
class LabelQuestions:
    """What is asked.

    Parameters
    ----------
    labels : tuple of str
        Names of metadata of the pairs.
    template : str
        Of the question: ``{label}`` is the name with blanks for underscores, and any metadata of
        the pair stands by its name, ``{history}``.
    settings : MiningSettings
        How candidates are found; its negatives and margin are not read: all wrong ones are kept.

    Raises
    ------
    ValueError
        If no label is named, or one twice.
    InputError
        If anything but plain names stands in the template's braces.
    """

    labels: tuple[str, ...]
    template: str = QUESTION
    settings: MiningSettings = field(default_factory=lambda: MiningSettings(candidates=CANDIDATES))

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are {self.labels!r}; name one or several, each once")
        check_template(self.template)

    def text(self, pair: StoredPair, label: str) -> str:
        """Return the question about one label of a pair.

        Raises
        ------
        InputError
            If the template names what the pair does not have, or nothing is left of it.
        """
        values = {**pair.metadata, "label": label.replace("_", " ")}
        try:
            text = self.template.format_map(values).strip()
        except KeyError as error:
            raise InputError(
                f"the question names {error}, and the pair has nothing of that name"
            ) from None
        if not text:
            raise InputError("the question's template gives an empty text")
        return text


def check_template(template: str) -> None:
    """Raise InputError unless all that stands in braces are plain names."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"the question {template!r} cannot be read: {error}") from None
    for _, name, form, conversion in parts:
        if name is not None and (form or conversion or not name.isidentifier()):
            raise InputError(
                f"the question {template!r} has {{{name}}}; names of columns stand in braces, "
                "as they are, and {{ }} for braces themselves"
            )


def value_of(pair: Any, label: str) -> str | None:
    """Return a pair's value of a label as it is compared; None where it has none."""
    value = pair.metadata.get(label)
    return None if value is None else str(value).strip().casefold() or None


def mine_labels(
    store: PairStore,
    towers: DualTower,
    questions: LabelQuestions,
    out: str | os.PathLike[str],
    progress: Callable[[int, int, int], None] | None = None,
) -> MiningReport:
    """Write training records from labels into a file, going on where an earlier run was stopped.

    Parameters
    ----------
    store
        Made with the same towers.
    towers
        Embed the questions' texts; the images' vectors are those of the store.
    questions
        Labels, template, and how candidates are found.
    out
        The file.
    progress
        Takes the number of pairs handled, of all, and of those in the file already.

    Raises
    ------
    StoreError
        If the store was made with other towers.
    InputError
        If no pair has such a label, or the file was begun with something else.
    """
    store.check_towers(towers.identity)
    settings = questions.settings
    ids = store.pair_ids()
    header = TrainingHeader(
        towers.identity,
        "labels",
        settings.seed,
        max(1, settings.candidates),
        {
            "labels": list(questions.labels),
            "template": questions.template,
            "weights": settings.weights.as_dict(),
            "candidates": settings.candidates,
            "pool": settings.pool,
            "pairs": len(ids),
        },
    )
    started = time.perf_counter()
    skipped: list[Skipped] = []
    with LineLog(out, TRAINING_FILE, header, keep=False) as log:
        known = set(log.keys)
        resumed, labelled = len(known), 0
        for start in range(0, len(ids), _AT_ONCE):
            part = store.get(ids[start : start + _AT_ONCE])
            vectors = _text_vectors(part.values(), towers, questions)
            for row, pair in enumerate(part.values(), start=start + 1):
                names = [name for name in questions.labels if value_of(pair, name) is not None]
                labelled += len(names)
                todo = [name for name in names if f"{pair.pair_id} {name}" not in known]
                try:
                    more = (store, towers, questions, ids, vectors)
                    log.append([_record(pair, name, *more) for name in todo])
                except InputError as error:
                    skipped.append(Skipped(row, pair.pair_id, str(error)))
            if progress is not None:
                progress(min(start + _AT_ONCE, len(ids)), len(ids), resumed)
        if not labelled:
            raise InputError(
                f"none of the {len(ids)} pairs has a label {', '.join(map(repr, questions.labels))}"
            )
    return MiningReport.of(TRAINING_FILE.stream(out), resumed, skipped, started)


def _text_vectors(
    pairs: Iterable[StoredPair], towers: DualTower, questions: LabelQuestions
) -> dict[str, NDArray[np.float32]]:
    """Embed what some pairs ask, each text once; a pair that cannot ask is named later."""
    texts: dict[str, None] = {}
    for pair in pairs:
        for name in questions.labels:
            if value_of(pair, name) is not None:
                with suppress(InputError):
                    texts[questions.text(pair, name)] = None
    return dict(zip(texts, towers.embed_texts(list(texts)), strict=True)) if texts else {}


def _record(
    pair: StoredPair,
    label: str,
    store: PairStore,
    towers: DualTower,
    questions: LabelQuestions,
    ids: Sequence[str],
    vectors: dict[str, NDArray[np.float32]],
) -> TrainingRecord:
    if pair.missing == "image":
        raise InputError("it has no image to ask about")
    if pair.patient_id is None:
        raise InputError("it names no patient: pairs of the same patient would be right")
    name, settings = f"{pair.pair_id} {label}", questions.settings
    q_image: NDArray[np.float32] = store.schema.blocks.split(pair.vector)[0]
    q_text = vectors[questions.text(pair, label)]
    exclude = Exclusion(pair_ids=[pair.pair_id], patient_ids=[pair.patient_id])  # type: ignore[arg-type]
    others = drawn_ids(ids, settings, name)
    hits = [
        hit
        for hit in find_candidates(store, q_image, q_text, settings, exclude, others)
        if hit.patient_id is not None and value_of(hit, label) is not None
    ]
    if not hits:
        raise InputError("no pair of another patient has the label")
    right = [
        place for place, hit in enumerate(hits) if value_of(hit, label) == value_of(pair, label)
    ]
    wrong = [place for place in range(len(hits)) if place not in right]
    return TrainingRecord(
        question_id=name,
        patient_id=pair.patient_id,
        **terms_of(hits),
        pair_ids=tuple(hit.pair_id for hit in hits),
        confidence=tuple(float(place in right) for place in range(len(hits))),
        positive=right[0] if right else 0,
        positives=tuple(right) or None,
        negatives=tuple(wrong) if right else (),
        unaided=EVEN,
        query_image=rounded(q_image),
        query_text=rounded(q_text),
    )
