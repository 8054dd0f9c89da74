"""The questions and pairs that ``mrrag eval`` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet


def phantom_sets(seeds: int, questions: int | None) -> list[EvaluationSet]:
    """Return the set to learn on, the set to tune on, and those to score."""
    from mrrag_llamaindex.phantom.sets.evaluation_set import (
        FIT_SEED,
        QUESTIONS,
        TUNE_SEED,
        phantom_set,
    )

    drawn = (FIT_SEED, TUNE_SEED, *range(seeds))
    return [phantom_set(seed, questions=questions or QUESTIONS) for seed in drawn]


def phantom_documents() -> int:
    """Return K of the phantom."""
    from mrrag_llamaindex.phantom.sets.evaluation_set import SETTING

    return SETTING.documents


def read_copy(
    data: str,
    root: Path,
    places: tuple[Path | None, Path | None, Path | None],
    scoring: str,
    facts: Path | None,
    count: int | None,
    seed: int,
) -> EvaluationSet:
    """Read one's own copy of a data set; ``places`` are its questions, reports and images."""
    from mrrag_llamaindex.evaluation.data.parts import drawn_questions
    from mrrag_llamaindex.evaluation.data.readers import read_data
    from mrrag_llamaindex.evaluation.methods.finding_table import read_findings

    asked, reports, images = places
    found = read_data(data, root, questions=asked, reports=reports, images=images, rule=scoring)
    if facts is not None:
        labels = read_findings(facts, {pair.pair_id for pair in found.pairs})
        found = replace(found, facts=labels)
    return drawn_questions(found, count, seed)


def unread(sets: Sequence[EvaluationSet]) -> list[str]:
    """Say that reports which the question file brings along are not used."""
    asked = {item.question_id for data in sets for item in data.questions}
    count = sum(name in asked for data in sets for name in data.references)
    if not count:
        return []
    return [
        f"{count} questions bring reports that another system retrieved; no row reads them, each "
        "method retrieves its own"
    ]
