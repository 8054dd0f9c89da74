"""RULE's and MMed-RAG's question files, with the reports of their retriever files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    MISSING_IMAGE,
    NEITHER,
    NO_ANSWER,
    NO_OWNER,
    REFERENCES,
    UNREADABLE,
    Asked,
    EvaluationSet,
    Problem,
    labelled,
    yes_or_no,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    REPORT_FILE,
    Images,
    PathLike,
    check_root,
    find_file,
    question_file,
    unique_rows,
)
from mrrag_llamaindex.evaluation.data.readers.layouts import Layout
from mrrag_llamaindex.evaluation.data.readers.reports import Reports, read_reports
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

_NOTHING = "(none)"
"""In place of an answer that is not there: as nothing, no word of it is a no."""

_SPELLINGS = ("reference_reports", "reference_report")


def read_layout(
    layout: Layout,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | Sequence[PathLike] | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked | None = None,
) -> EvaluationSet:
    """Read one of the three data sets.

    Parameters
    ----------
    layout : Layout
    root
        Folder of the data set; files and image folders are looked for below it.
    questions, reports, images
        Where they lie if not there. Several report files are read one after the other.
    rule
        How gold answers become labels, see `data_set.labelled`. Under ``cares`` every row counts,
        as in published figures: one without an answer is a yes, and one whose id is taken is kept
        under another name.
    answers_only
        Only answers are to be scored: neither images nor the file of reports are looked for.
    asked
        What the task takes; by default yes or no, read by the rule.

    Raises
    ------
    InputError
        If a file is not found, cannot be read, or holds no question that can be scored. What
        concerns one row is a problem of the set.
    """
    folder = check_root(root)
    source = question_file(folder, questions, layout.questions)
    if answers_only:
        files = []
    elif reports is None:
        files = [find_file(folder, layout.reports, "file of reports", REPORT_FILE)]
    elif isinstance(reports, Sequence) and not isinstance(reports, str):
        files = [Path(item) for item in reports]
    else:
        files = [Path(reports)]
    image_files = Images.below(folder, images, layout.images)
    evidence = read_reports(layout, files, image_files)
    if files and not evidence.pairs:
        raise InputError(f"{layout.name}: no pair of {files[0].name} can be retrieved from")

    def parse(row: dict[str, Any], name: str, where: str) -> GoldQuestion | Problem:
        answered = row
        if published and not (isinstance(row.get("answer"), str) and row["answer"].strip()):
            problems.append(Problem(NO_ANSWER, where, "counted, as in published figures"))
            answered = {**row, "answer": _NOTHING}
        item = _question(layout, answered, name, evidence, image_files, where)
        if answers_only and isinstance(item, Problem) and item.kind == MISSING_IMAGE:
            return _question(layout, answered, name, evidence, None, where)
        return item

    published = rule == "cares"
    problems = list(evidence.problems)
    references: dict[str, tuple[str, ...]] = {}
    kept: list[GoldQuestion] = []
    rows = unique_rows(source, "question_id", parse, problems, number_duplicates=published)
    for where, row, item in rows:
        kept.append(item)
        if texts := _references(row, where, problems):
            references[item.question_id] = texts
    return labelled(
        layout.name,
        kept,
        tuple(evidence.pairs.values()),
        problems,
        asked=asked or yes_or_no(rule),
        file=source.name,
        answers_only=answers_only,
        facts=evidence.facts,
        references=references,
    )


def _question(
    layout: Layout,
    row: dict[str, Any],
    name: str,
    evidence: Reports,
    images: Images | None,
    where: str,
) -> GoldQuestion | Problem:
    """Return a row's question; without ``images`` its image is a name that nobody opens."""
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str):
        return Problem(UNREADABLE, where, "it has no question")
    if not isinstance(answer, str) or not answer.strip():
        kind = "empty" if answer is None or isinstance(answer, str) else "not text"
        return Problem(NEITHER, where, f"the answer is {kind}")
    owner = layout.owner(row.get("image"))
    if owner is None:
        return Problem(NO_OWNER, where, f"its image is not of the form {layout.shape}")
    image = owner.image if images is None else images.find(owner.image)
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    return GoldQuestion(
        question_id=name,
        image=image,
        # The mark says where LLaVA's own prompt has the image; ours says it itself.
        question=question.replace("<image>", "").strip(),
        answer=answer.strip(),
        patient_id=owner.patient_id,
        study_id=owner.study_id,
        pair_id=evidence.of_image.get(owner.image),
    )


def _references(row: dict[str, Any], where: str, problems: list[Problem]) -> tuple[str, ...]:
    """Return the reports that the row brings along, without the patient's own.

    Their retriever writes ``reference_reports``, their evaluation reads ``reference_report``: a
    row that has only one of them is good, two that differ are not.
    """
    given = [_texts(row[name]) for name in _SPELLINGS if row.get(name) is not None]
    if not given:
        return ()
    texts = given[0]
    if texts is None or any(other != texts for other in given):
        problems.append(Problem(REFERENCES, where, "its reference reports cannot be told"))
        return ()
    count = row.get("retrieve_k")
    if count is not None and count != len(texts):
        reason = f"it has {len(texts)} reference reports and retrieve_k {count!r}"
        problems.append(Problem(REFERENCES, where, reason))
    own = str(row.get("report") or "").split()
    others = tuple(text for text in texts if text.split() != own)
    if len(others) < len(texts):
        problems.append(Problem(REFERENCES, where, "the row's own report was among them"))
    return others


def _texts(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(item for item in value if item.strip())
    return None
