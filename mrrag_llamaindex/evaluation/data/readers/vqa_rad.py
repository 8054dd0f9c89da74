"""VQA-RAD: json lists of questions about 315 images, and a folder of the images.

It has no reports. What is retrieved are its own training questions: a pair is an image and the
statement of a question with its answer, "Is there an effusion? no". A table of pairs of one's own
may be named instead; where there is neither, only methods without retrieval can be run.

The official parts share images, so every question's own image is kept from its evidence: all
questions about an image count as one patient, and nothing more is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    CLOSED,
    FREE_TEXT,
    MISSING_IMAGE,
    NEITHER,
    Asked,
    EvaluationSet,
    Problem,
    labelled,
    yes_or_no,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    Images,
    PathLike,
    check_root,
    find_file,
    question_file,
    unique_rows,
)
from mrrag_llamaindex.evaluation.data.readers.table import read_evidence
from mrrag_llamaindex.mcr.vote import YES_NO, normal_answer
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import Pair

PUBLIC = "VQA_RAD Dataset Public.json"
QUESTIONS = (PUBLIC, "testset.json", "test.json")
TRAINING = ("trainset.json", "train.json")
IMAGES = ("VQA_RAD Image Folder", "images", ".")

_TRAINING_FILE = "--report-file (a table of pairs), or put it there"


@dataclass(frozen=True)
class RadQuestions:
    """Both parts of VQA-RAD with all their questions, closed and open.

    Attributes
    ----------
    training, test : tuple of GoldQuestion
        ``patient_id`` is the image's name without its ending.
    problems : tuple of Problem
    """

    training: tuple[GoldQuestion, ...]
    test: tuple[GoldQuestion, ...]
    problems: tuple[Problem, ...]


def read_vqa_rad(
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked | None = None,
) -> EvaluationSet:
    """Read VQA-RAD: ``qid``, ``image_name``, ``question``, ``answer``, ``answer_type``.

    Open questions (``answer_type``) are listed as free text, and asked by the task ``open``, which
    lists the closed ones. All questions about an image count as
    one patient: nothing more is known.

    Parameters
    ----------
    root, questions, images, rule, answers_only, asked
        See `questions.read_layout`. In the public file, rows whose ``phrase_type`` begins with
        ``test`` are asked and the others are pairs.
    reports
        A table of pairs (csv or jsonl), as ``mrrag ingest`` takes it; by default the pairs are
        those of the training questions, where their file is there.

    Raises
    ------
    InputError
        See `questions.read_layout`.
    """
    folder = check_root(root)
    source = question_file(folder, questions, QUESTIONS)
    image_files = None if answers_only else Images.below(folder, images, IMAGES)
    pairs, problems = read_evidence(reports)
    training_file = next((folder / name for name in TRAINING if (folder / name).is_file()), None)
    if image_files and reports is None and training_file and training_file != source:
        known, missing = _read(training_file, image_files)
        pairs, problems = [pair_of(item) for item in known], missing
    marked: set[str] = set()
    wants_open = asked is not None and asked.task == "open"

    def parse(row: dict[str, Any], name: str, where: str) -> GoldQuestion | Problem:
        if _is_test(row):
            marked.add(name)
        # "CLOSED " with a blank occurs.
        is_open = str(row.get("answer_type", "")).strip().upper() == "OPEN"
        if wants_open is not is_open:
            kind = FREE_TEXT if is_open else CLOSED
            return Problem(kind, where, f"its answer_type is {'OPEN' if is_open else 'CLOSED'}")
        return _question(row, name, image_files, where)

    kept = [item for _, _, item in unique_rows(source, "qid", parse, problems)]
    if marked and reports is None:
        every, _ = _read(source, image_files)
        pairs = (
            []
            if answers_only
            else [pair_of(item) for item in every if item.question_id not in marked]
        )
        kept = [item for item in kept if item.question_id in marked]
    return labelled(
        *("vqa-rad", kept, pairs, problems),
        asked=asked or yes_or_no(rule),
        file=source.name,
        answers_only=answers_only,
    )


def read_all_questions(
    root: PathLike, *, questions: PathLike | None = None, images: PathLike | None = None
) -> RadQuestions:
    """Read both parts whole, open questions and all: what a vote can answer.

    Raises
    ------
    InputError
        If a file is not found or cannot be read, or a part has no questions.
    """
    folder = check_root(root)
    source = question_file(folder, questions, QUESTIONS)
    image_files = Images.below(folder, images, IMAGES)
    every, problems = _read(source, image_files)
    marked = _marked(source)
    if marked:
        test = [item for item in every if item.question_id in marked]
        training = [item for item in every if item.question_id not in marked]
    else:
        file = find_file(folder, TRAINING, "file of training questions", _TRAINING_FILE)
        test = every
        training, more = _read(file, image_files)
        problems = [*more, *problems]
    if not training or not test:
        raise InputError(
            f"{folder.name!r} holds no questions that can be used: {_counts(problems)}"
        )
    return RadQuestions(tuple(training), tuple(test), tuple(problems))


def is_closed(question: GoldQuestion) -> bool:
    """Whether the gold answer is a yes or a no."""
    return normal_answer(question.answer) in YES_NO


def statement(question: GoldQuestion) -> str:
    """Return question and answer as one text: what stands in a pair for a report."""
    return f"{question.question} {question.answer}"


def pair_of(question: GoldQuestion) -> Pair:
    """Return a training question as a pair; its metadata holds the answer."""
    return Pair(
        question.image,
        statement(question),
        f"train-{question.question_id}",
        question.patient_id,
        {"answer": question.answer},
    )


def _read(source: Path, images: Images | None) -> tuple[list[GoldQuestion], list[Problem]]:
    problems: list[Problem] = []

    def parse(row: dict[str, Any], name: str, where: str) -> GoldQuestion | Problem:
        return _question(row, name, images, where)

    return [item for _, _, item in unique_rows(source, "qid", parse, problems)], problems


def _marked(source: Path) -> set[str]:
    """Return the ids of the rows that the public file marks as test questions."""
    marked: set[str] = set()

    def parse(row: dict[str, Any], name: str, where: str) -> Problem:
        if _is_test(row):
            marked.add(name)
        return Problem(NEITHER, where, "only its mark is read")

    for _ in unique_rows(source, "qid", parse, []):
        pass
    return marked


def _is_test(row: dict[str, Any]) -> bool:
    return str(row.get("phrase_type", "")).strip().lower().startswith("test")


def _question(
    row: dict[str, Any], name: str, images: Images | None, where: str
) -> GoldQuestion | Problem:
    question, answer, image_name = (row.get(key) for key in ("question", "answer", "image_name"))
    if isinstance(answer, int) and not isinstance(answer, bool) and row.get("answer_type"):
        answer = str(answer)  # "how many?"
    if not isinstance(answer, str) or not answer.strip():
        return Problem(NEITHER, where, "the answer is not text")
    # A name only: a path could lead out of the folder.
    if not isinstance(image_name, str) or Path(image_name).name != image_name.strip():
        return Problem(MISSING_IMAGE, where, "it names no image")
    named = image_name.strip()
    image = named if images is None else images.find(named)
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    own = Path(image_name.strip()).stem
    return GoldQuestion(name, image, str(question or ""), answer.strip(), patient_id=own)


def _counts(problems: list[Problem]) -> str:
    kinds = sorted({item.kind for item in problems})
    return ", ".join(f"{sum(p.kind == k for p in problems)} x {k}" for k in kinds) or "no rows"
