"""One's own data: a table of questions and a table of pairs, as the other commands take them."""

from __future__ import annotations

from pathlib import Path

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    DUPLICATE_ID,
    EMPTY_REPORT,
    NO_OWNER,
    PAIR_IMAGE,
    Asked,
    EvaluationSet,
    Problem,
    labelled,
    yes_or_no,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    REPORT_FILE,
    PathLike,
    check_root,
    find_file,
    question_file,
)
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, read_questions
from mrrag_llamaindex.store.pair import Pair, Skipped

QUESTIONS = ("questions.csv", "questions.jsonl")
PAIRS = ("pairs.csv", "pairs.jsonl")


def read_table(
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked | None = None,
) -> EvaluationSet:
    """Read ``questions.csv`` and ``pairs.csv`` (or ``.jsonl``) of a folder.

    Parameters
    ----------
    root, questions, reports, images, rule, answers_only, asked
        See `questions.read_layout`; the columns are those of `read_questions` and `read_pairs`.

    Raises
    ------
    InputError
        If a table is not found, cannot be read, or holds no question that can be scored.
    """
    folder = check_root(root)
    source = question_file(folder, questions, QUESTIONS)
    table = None
    if not answers_only:
        given = Path(reports) if reports else None
        table = given or find_file(folder, PAIRS, "table of pairs", REPORT_FILE)
    pairs, problems = read_evidence(table, images)
    kept: list[GoldQuestion] = []
    # A pair can be kept from its own question only by a name that both tables give.
    with_patient = any(pair.patient_id for pair in pairs)
    with_study = any(pair.study_id for pair in pairs)
    for item in read_questions(source, images=images):
        if isinstance(item, Skipped):
            problems.append(Problem.of_skipped(item, source.name))
        elif not answers_only and not (
            item.pair_id or (item.patient_id and with_patient) or (item.study_id and with_study)
        ):
            name = f"{source.name} {item.question_id!r}"
            reason = "no pair has a patient_id or study_id that could tell its own"
            problems.append(Problem(NO_OWNER, name, reason))
        else:
            kept.append(item)
    return labelled(
        *(folder.resolve().name, kept, pairs, problems),
        asked=asked or yes_or_no(rule),
        file=source.name,
        answers_only=answers_only,
    )


def read_evidence(
    table: PathLike | None, images: PathLike | None = None
) -> tuple[list[Pair], list[Problem]]:
    """Read a table of pairs; without one there are none.

    Raises
    ------
    InputError
        If it cannot be read, or no pair of it can be used.
    """
    if table is None:
        return [], []
    source = Path(table)
    pairs: dict[str, Pair] = {}
    problems: list[Problem] = []
    for item in read_pairs(source, images=images):
        if isinstance(item, Skipped):
            problems.append(Problem.of_skipped(item, source.name))
            continue
        name = f"{source.name} {item.pair_id!r}"
        if item.pair_id in pairs:
            problems.append(Problem(DUPLICATE_ID, name, "an earlier row has the same id"))
        elif item.report is None:
            problems.append(Problem(EMPTY_REPORT, name, "there is nothing to retrieve"))
        elif isinstance(item.image, str) and not Path(item.image).is_file():
            problems.append(Problem(PAIR_IMAGE, name, "kept as a report alone"))
            pairs[item.pair_id] = Pair(
                None, item.report, item.pair_id, item.patient_id, item.metadata
            )
        else:
            pairs[item.pair_id] = item
    if not pairs:
        raise InputError(f"{source.name}: no pair can be retrieved from")
    return list(pairs.values()), problems
