"""RULE's and MMed-RAG's question files, with the reports of their retriever files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    DUPLICATE_ID,
    MISSING_IMAGE,
    NEITHER,
    NO_OWNER,
    REFERENCES,
    UNREADABLE,
    EvaluationSet,
    Problem,
    labelled,
    row_name,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    QUESTION_FILE,
    REPORT_FILE,
    Images,
    PathLike,
    check_root,
    existing,
    find_file,
    rows_of,
)
from mrrag_llamaindex.evaluation.data.readers.layouts import Layout
from mrrag_llamaindex.evaluation.data.readers.reports import Reports, read_reports
from mrrag_llamaindex.files.rows import identifier
from mrrag_llamaindex.store.question_table import GoldQuestion

_SPELLINGS = ("reference_reports", "reference_report")


def read_layout(
    layout: Layout,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | Sequence[PathLike] | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
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
        How gold answers become labels, see `data_set.labelled`.

    Raises
    ------
    InputError
        If a file is not found, cannot be read, or holds no question that can be scored. What
        concerns one row is a problem of the set.
    """
    folder = check_root(root)
    asked = (
        Path(questions)
        if questions is not None
        else find_file(folder, layout.questions, "question file", QUESTION_FILE)
    )
    if reports is None:
        files = [find_file(folder, layout.reports, "file of reports", REPORT_FILE)]
    else:
        given = (
            [reports] if isinstance(reports, str) or not isinstance(reports, Sequence) else reports
        )
        files = [Path(item) for item in given]
    found_images = Images(
        existing(folder, layout.images) if images is None else (check_root(images),)
    )
    evidence = read_reports(layout, files, found_images)
    if not evidence.pairs:
        raise InputError(f"{layout.name}: no pair of {files[0].name} can be retrieved from")
    problems: list[Problem] = []
    references: dict[str, tuple[str, ...]] = {}
    kept: dict[str, GoldQuestion] = {}
    for number, row in enumerate(rows_of(asked), start=1):
        where = row_name(asked.name, number)
        item = _question(layout, row, evidence, found_images, where)
        if isinstance(item, Problem):
            problems.append(item)
        elif item.question_id in kept:
            name = row_name(asked.name, number, item.question_id)
            problems.append(Problem(DUPLICATE_ID, name, "an earlier row has the same id"))
        else:
            kept[item.question_id] = item
            assert isinstance(row, dict)
            given_reports = _references(row, where, problems)
            if given_reports:
                references[item.question_id] = given_reports
    return labelled(
        layout.name,
        kept.values(),
        tuple(evidence.pairs.values()),
        [*evidence.problems, *problems],
        rule=rule,
        file=asked.name,
        facts=evidence.facts,
        references=references,
    )


def _question(
    layout: Layout, row: Any, evidence: Reports, images: Images, where: str
) -> GoldQuestion | Problem:
    if isinstance(row, str):
        return Problem(UNREADABLE, where, row)
    try:
        name = identifier(row.get("question_id"))
    except InputError as error:
        return Problem(UNREADABLE, where, str(error))
    if name is None:
        return Problem(UNREADABLE, where, "it has no question_id")
    where = f"{where} ({name!r})"
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str):
        return Problem(UNREADABLE, where, "it has no question")
    if not isinstance(answer, str) or not answer.strip():
        kind = "empty" if answer in (None, "") or isinstance(answer, str) else "not text"
        return Problem(NEITHER, where, f"the answer is {kind}")
    owner = layout.owner(row.get("image"))
    if owner is None:
        return Problem(NO_OWNER, where, f"its image is not of the form {layout.shape}")
    image = images.find(owner.image)
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    try:
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
    except InputError as error:
        return Problem(UNREADABLE, where, str(error))


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
