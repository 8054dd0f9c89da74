"""VQA-RAD: one json list of questions about 315 images, and a folder of the images.

It has no reports. What is retrieved comes from a table of pairs of one's own, or is nothing; then
only methods without retrieval can be run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrrag_llamaindex.evaluation.data.data_set import (
    FREE_TEXT,
    MISSING_IMAGE,
    NEITHER,
    EvaluationSet,
    Problem,
    labelled,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    Images,
    PathLike,
    check_root,
    question_file,
    unique_rows,
)
from mrrag_llamaindex.evaluation.data.readers.table import read_evidence
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

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
    source = question_file(folder, questions, QUESTIONS)
    image_files = Images.below(folder, images, IMAGES)
    pairs, problems = read_evidence(reports)

    def parse(row: dict[str, Any], name: str, where: str) -> GoldQuestion | Problem:
        return _question(row, name, image_files, where)

    kept = [item for _, _, item in unique_rows(source, "qid", parse, problems)]
    return labelled("vqa-rad", kept, pairs, problems, rule=rule, file=source.name)


def _question(row: dict[str, Any], name: str, images: Images, where: str) -> GoldQuestion | Problem:
    # "CLOSED " with a blank occurs.
    if str(row.get("answer_type", "")).strip().upper() == "OPEN":
        return Problem(FREE_TEXT, where, "its answer_type is OPEN")
    question, answer, image_name = (row.get(key) for key in ("question", "answer", "image_name"))
    if not isinstance(answer, str) or not answer.strip():
        return Problem(NEITHER, where, "the answer is not text")
    # A name only: a path could lead out of the folder.
    if not isinstance(image_name, str) or Path(image_name).name != image_name.strip():
        return Problem(MISSING_IMAGE, where, "it names no image")
    image = images.find(image_name.strip())
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    own = Path(image_name.strip()).stem
    return GoldQuestion(name, image, str(question or ""), answer.strip(), patient_id=own)
