"""VQA-RAD: one json list of questions about 315 images, and a folder of the images.

It has no reports. What is retrieved comes from a table of pairs of one's own, or is nothing; then
only methods without retrieval can be run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    DUPLICATE_ID,
    FREE_TEXT,
    MISSING_IMAGE,
    NEITHER,
    UNREADABLE,
    EvaluationSet,
    Problem,
    labelled,
    row_name,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    QUESTION_FILE,
    Images,
    PathLike,
    check_root,
    existing,
    find_file,
    rows_of,
)
from mrrag_llamaindex.evaluation.data.readers.table import read_evidence
from mrrag_llamaindex.files.rows import identifier
from mrrag_llamaindex.store.question_table import GoldQuestion

QUESTIONS = ("VQA_RAD Dataset Public.json", "testset.json", "test.json")
IMAGES = ("VQA_RAD Image Folder", "images", ".")


def read_vqa_rad(
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
) -> EvaluationSet:
    """Read VQA-RAD: ``qid``, ``image_name``, ``question``, ``answer``, ``answer_type``.

    Open questions (``answer_type``) are listed as free text. All questions about an image count as
    one patient: nothing more is known.

    Parameters
    ----------
    root, questions, images, rule
        See `questions.read_layout`.
    reports
        A table of pairs (csv or jsonl), as ``mrrag ingest`` takes it.

    Raises
    ------
    InputError
        See `questions.read_layout`.
    """
    folder = check_root(root)
    asked = (
        Path(questions)
        if questions is not None
        else find_file(folder, QUESTIONS, "question file", QUESTION_FILE)
    )
    found = Images(existing(folder, IMAGES) if images is None else (check_root(images),))
    pairs, problems = read_evidence(reports)
    kept: dict[str, GoldQuestion] = {}
    for number, row in enumerate(rows_of(asked), start=1):
        item = _question(row, found, row_name(asked.name, number))
        if isinstance(item, Problem):
            problems.append(item)
        elif item.question_id in kept:
            name = row_name(asked.name, number, item.question_id)
            problems.append(Problem(DUPLICATE_ID, name, "an earlier row has the same id"))
        else:
            kept[item.question_id] = item
    return labelled("vqa-rad", kept.values(), pairs, problems, rule=rule, file=asked.name)


def _question(row: Any, images: Images, where: str) -> GoldQuestion | Problem:
    if isinstance(row, str):
        return Problem(UNREADABLE, where, row)
    try:
        name = identifier(row.get("qid"))
    except InputError as error:
        return Problem(UNREADABLE, where, str(error))
    if name is None:
        return Problem(UNREADABLE, where, "it has no qid")
    where = f"{where} ({name!r})"
    # "CLOSED " with a blank occurs.
    if str(row.get("answer_type", "")).strip().upper() == "OPEN":
        return Problem(FREE_TEXT, where, "its answer_type is OPEN")
    question, answer, image_name = (row.get(key) for key in ("question", "answer", "image_name"))
    if not isinstance(answer, str) or not answer.strip():
        return Problem(NEITHER, where, "the answer is no text")
    # A name only: a path could lead out of the folder.
    if not isinstance(image_name, str) or Path(image_name).name != image_name.strip():
        return Problem(MISSING_IMAGE, where, "it names no image")
    image = images.find(image_name.strip())
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    try:
        own = Path(image_name.strip()).stem
        return GoldQuestion(name, image, str(question or ""), answer.strip(), patient_id=own)
    except InputError as error:
        return Problem(UNREADABLE, where, str(error))
