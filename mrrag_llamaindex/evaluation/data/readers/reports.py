"""The pairs to retrieve from: RULE's and MMed-RAG's retriever files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    DUPLICATE_ID,
    EMPTY_REPORT,
    MISSING_IMAGE,
    NO_OWNER,
    UNREADABLE,
    Problem,
    row_name,
)
from mrrag_llamaindex.evaluation.data.readers.files import Images, rows_of
from mrrag_llamaindex.evaluation.data.readers.layouts import Layout, Owner
from mrrag_llamaindex.files.rows import identifier
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair


@dataclass
class Reports:
    """Pairs of a data set, and what was wrong with the rest.

    Attributes
    ----------
    pairs : dict of str to Pair
        By id. Each has a patient and a study, without which it could be a question's own.
    of_image : dict of str to str
        Pair ids by the image's path inside the image folder.
    facts : dict
        By pair id: ``{"glaucoma": bool}`` where the row says so.
    problems : list of Problem
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    of_image: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, bool]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_reports(layout: Layout, files: Sequence[Path], images: Images) -> Reports:
    """Read retriever files: ``id``, ``report``, ``image_path`` (a path, or a list of them).

    Of several images the first is taken, the frontal one. A pair whose image is missing stays as a
    report alone, and is listed; one without report or patient is left out. Of all other fields only
    ``subject_id``, ``study_id`` and ``filename`` are read, to check the path against, and
    ``glaucoma``.
    """
    reports = Reports()
    for source in files:
        for number, row in enumerate(rows_of(source), start=1):
            _add(reports, layout, row, images, source.name, number)
    return reports


def _add(
    reports: Reports, layout: Layout, row: Any, images: Images, file: str, number: int
) -> None:
    def problem(kind: str, reason: str, name: str | None = None) -> None:
        reports.problems.append(Problem(kind, row_name(file, number, name), reason))

    if isinstance(row, str):
        return problem(UNREADABLE, row)
    try:
        pair_id = identifier(row.get("id"))
    except InputError as error:
        return problem(UNREADABLE, str(error))
    if pair_id is None:
        return problem(UNREADABLE, "it has no id")
    owner = layout.owner(_first(row.get("image_path")))
    if owner is None:
        return problem(NO_OWNER, f"its image path is not of the form {layout.shape}", pair_id)
    if _contradicts(row, owner):
        return problem(NO_OWNER, "its fields and its image path name different patients", pair_id)
    report = row.get("report")
    if not isinstance(report, str) or not report.strip():
        return problem(EMPTY_REPORT, "there is nothing to retrieve", pair_id)
    if pair_id in reports.pairs:
        return problem(DUPLICATE_ID, "an earlier row has the same id", pair_id)
    image = images.find(owner.image)
    try:
        pair = Pair(image, report, pair_id, owner.patient_id, {STUDY_KEY: owner.study_id})
    except InputError as error:
        return problem(UNREADABLE, str(error), pair_id)
    if image is None:
        problem(MISSING_IMAGE, "kept as a report alone", pair_id)
    reports.pairs[pair_id] = pair
    reports.of_image.setdefault(owner.image, pair_id)
    if row.get("glaucoma") in ("yes", "no"):
        reports.facts[pair_id] = {"glaucoma": row["glaucoma"] == "yes"}
    return None


def _first(paths: object) -> object:
    return paths[0] if isinstance(paths, list) and paths else paths


def _contradicts(row: dict[str, Any], owner: Owner) -> bool:
    """Whether a field names another patient or study than the image's path does."""
    pairs = (("subject_id", owner.patient_id), ("study_id", owner.study_id))
    for name, expected in pairs:
        if row.get(name) is not None and str(row[name]).strip().lstrip("ps") != expected:
            return True
    file = row.get("filename")
    return isinstance(file, str) and owner.patient_id not in file
