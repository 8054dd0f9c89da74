"""The pairs to retrieve from: RULE's and MMed-RAG's retriever files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrrag_llamaindex.evaluation.data.data_set import EMPTY_REPORT, NO_OWNER, PAIR_IMAGE, Problem
from mrrag_llamaindex.evaluation.data.readers.files import Images, unique_rows
from mrrag_llamaindex.evaluation.data.readers.layouts import Layout, Owner
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

    def parse(row: dict[str, Any], pair_id: str, where: str) -> Pair | Problem:
        owner = layout.owner(_first(row.get("image_path")))
        if owner is None:
            return Problem(NO_OWNER, where, f"its image path is not of the form {layout.shape}")
        if _contradicts(row, owner):
            reason = "its fields and its image path name different patients"
            return Problem(NO_OWNER, where, reason)
        report = row.get("report")
        if not isinstance(report, str) or not report.strip():
            return Problem(EMPTY_REPORT, where, "there is nothing to retrieve")
        image = images.find(owner.image)
        pair = Pair(image, report, pair_id, owner.patient_id, {STUDY_KEY: owner.study_id})
        if pair_id not in reports.pairs:
            reports.of_image.setdefault(owner.image, pair_id)
        return pair

    for source in files:
        rows = unique_rows(source, "id", parse, reports.problems, set(reports.pairs))
        for where, row, pair in rows:
            reports.pairs[pair.pair_id] = pair
            if pair.image is None:
                name = f"{where} ({pair.pair_id!r})"
                reports.problems.append(Problem(PAIR_IMAGE, name, "kept as a report alone"))
            if row.get("glaucoma") in ("yes", "no"):
                reports.facts[pair.pair_id] = {"glaucoma": row["glaucoma"] == "yes"}
    return reports


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
