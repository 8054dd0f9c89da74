"""Studies with their reports in one ``annotation.json``: IU X-ray and MIMIC-CXR for report writing.

The file has the parts ``train``, ``val`` and ``test``; a row holds ``id``, ``report`` and
``image_path``, for MIMIC-CXR ``subject_id`` and ``study_id``, too. The reports of the test part are
to be written, those of the training part are the evidence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    DUPLICATE_ID,
    EMPTY_REPORT,
    MISSING_IMAGE,
    NO_OWNER,
    PAIR_IMAGE,
    UNREADABLE,
    Asked,
    EvaluationSet,
    Problem,
    labelled,
    row_name,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    Images,
    PathLike,
    check_root,
    question_file,
)
from mrrag_llamaindex.evaluation.data.readers.layouts import Layout, Owner
from mrrag_llamaindex.evaluation.data.readers.table import read_evidence
from mrrag_llamaindex.files.rows import identifier, read_bytes
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair

FILES = (
    "annotation.json",
    "annotations.json",
    "iu_xray/annotation.json",
    "mimic_cxr/annotation.json",
)

SECTIONS = ("findings", "impression")
"""Fields that a row may have besides the whole report; they become headed sections of it."""


@dataclass(frozen=True)
class _Study:
    name: str
    owner: Owner
    report: str
    where: str


def read_annotations(
    layout: Layout,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked,
) -> EvaluationSet:
    """Read the studies of a data set.

    Parameters
    ----------
    layout : Layout
        Says whose image a path names.
    root, images, answers_only
        See `questions.read_layout`.
    questions
        The annotation file, if it does not lie at its usual place.
    reports
        A table of pairs to retrieve from, in place of the training part.
    rule
        Not read.
    asked
        What the task takes of a report, and the text that asks for it.

    Raises
    ------
    InputError
        See `questions.read_layout`.
    """
    folder = check_root(root)
    source = question_file(folder, questions, FILES)
    parts = _parts(source)
    image_files = Images.below(folder, images, layout.images)
    pairs, problems = read_evidence(reports, images)
    if reports is None and not answers_only:
        known = _studies(layout, parts.get("train", ()), "train", source.name, problems)
        pairs = [_pair(study, image_files, problems) for study in known]
        if not pairs:
            raise InputError(f"{source.name}: no report of the part 'train' can be retrieved")
    kept = []
    for study in _studies(layout, parts.get("test", ()), "test", source.name, problems):
        image = study.owner.image if answers_only else image_files.find(study.owner.image)
        if image is None:
            reason = "its image is not where it should be"
            problems.append(Problem(MISSING_IMAGE, study.where, reason))
            continue
        own = {"patient_id": study.owner.patient_id, "study_id": study.owner.study_id}
        kept.append(GoldQuestion(study.name, image, asked.question, study.report, **own))
    return labelled(
        *(f"{layout.name}-reports", kept, pairs, problems),
        asked=asked,
        file=source.name,
        answers_only=answers_only,
    )


def _parts(source: Path) -> Mapping[str, Sequence[Any]]:
    try:
        parts = json.loads(read_bytes(source).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InputError(f"{source.name} is not valid JSON") from None
    if not isinstance(parts, dict) or not isinstance(parts.get("test"), list):
        raise InputError(f"{source.name} has no list 'test': it is no annotation file")
    return {name: rows for name, rows in parts.items() if isinstance(rows, list)}


def _studies(
    layout: Layout, rows: Sequence[Any], part: str, file: str, problems: list[Problem]
) -> list[_Study]:
    """Return the usable rows of a part; what cannot be used becomes a problem."""
    seen: set[str] = set()
    studies = []
    for number, row in enumerate(rows, start=1):
        where = row_name(f"{file}, {part}", number)
        found = _study(layout, row, where)
        if isinstance(found, _Study) and found.name in seen:
            found = Problem(DUPLICATE_ID, found.where, "an earlier row has the same id")
        if isinstance(found, Problem):
            problems.append(found)
        else:
            seen.add(found.name)
            studies.append(found)
    return studies


def _study(layout: Layout, row: Any, where: str) -> _Study | Problem:
    if not isinstance(row, dict):
        return Problem(UNREADABLE, where, "it is no object")
    try:
        name = identifier(row.get("id"))
    except InputError as error:
        return Problem(UNREADABLE, where, str(error))
    if name is None:
        return Problem(UNREADABLE, where, "it has no id")
    where = f"{where} ({name!r})"
    paths = row.get("image_path")
    owner = layout.owner(paths[0] if isinstance(paths, list) and paths else paths)
    if owner is None:
        return Problem(NO_OWNER, where, f"its image path is not of the form {layout.shape}")
    for field, expected in (("subject_id", owner.patient_id), ("study_id", owner.study_id)):
        if row.get(field) is not None and str(row[field]).strip().lstrip("ps") != expected:
            return Problem(NO_OWNER, where, "its fields and its image path name different patients")
    report = _report(row)
    if not report:
        return Problem(EMPTY_REPORT, where, "there is nothing to write or to retrieve")
    return _Study(name, owner, report, where)


def _report(row: Mapping[str, Any]) -> str:
    """Return the report; of a row that has sections as fields, those under their headings."""
    texts = {name: row.get(name) for name in SECTIONS}
    named = [
        f"{n.upper()}: {t.strip()}" for n, t in texts.items() if isinstance(t, str) and t.strip()
    ]
    if named:
        return "\n".join(named)
    report = row.get("report")
    return report.strip() if isinstance(report, str) else ""


def _pair(study: _Study, images: Images, problems: list[Problem]) -> Pair:
    image = images.find(study.owner.image)
    if image is None:
        problems.append(Problem(PAIR_IMAGE, study.where, "kept as a report alone"))
    owner = study.owner
    return Pair(image, study.report, study.name, owner.patient_id, {STUDY_KEY: owner.study_id})
