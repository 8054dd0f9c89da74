"""The data sets that are read from a folder, one row each: a new one is one file and one row here.

Command line, documentation and tests take the names and everything else about them from `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import Asked, EvaluationSet, yes_or_no
from mrrag_llamaindex.evaluation.data.readers import table, vqa_rad
from mrrag_llamaindex.evaluation.data.readers.annotations import FILES, read_annotations
from mrrag_llamaindex.evaluation.data.readers.files import PathLike
from mrrag_llamaindex.evaluation.data.readers.layouts import FAIRVLMED, IU_XRAY, MIMIC_CXR, Layout
from mrrag_llamaindex.evaluation.data.readers.questions import read_layout
from mrrag_llamaindex.evaluation.data.readers.vqa_sets import (
    OMNIMEDVQA,
    PATH_VQA,
    PMC_VQA,
    SLAKE,
    VqaLayout,
    read_vqa,
)
from mrrag_llamaindex.evaluation.markdown import markdown_table


@dataclass(frozen=True)
class DataSetRow:
    """Everything that is particular to one data set.

    Attributes
    ----------
    name : str
        What ``--data`` takes.
    read : callable
        Takes what `read_data` takes, but for the name.
    source : str
        Where it comes from; the user brings the copy.
    questions, reports, images : str
        Files and folder below the root, the first of those that are looked for; in Markdown.
    tasks : tuple of str
        What can be asked of it, see `evaluation.tasks`.
    """

    name: str
    read: Callable[..., EvaluationSet]
    source: str
    questions: str
    reports: str
    images: str
    tasks: tuple[str, ...] = ("yes-no",)

    @classmethod
    def of_annotations(cls, layout: Layout, source: str) -> DataSetRow:
        """Return the row of a data set whose reports are to be written."""
        name = f"{layout.name}-reports"
        read = partial(read_annotations, layout)
        parts = f"`{FILES[0]}`, part `test`", "the same file, part `train`"
        images = f"`{layout.images[0]}/{layout.shape}`"
        return cls(name, read, source, *parts, images, tasks=("report",))

    @classmethod
    def of_vqa(cls, layout: VqaLayout, source: str, *tasks: str) -> DataSetRow:
        """Return the row of a set of questions about images."""
        training = layout.training[0] if layout.training else ""
        pairs = f"its training questions (`{training}`)" if training else "none"
        files = f"`{layout.questions[0]}`", f"{pairs}, or `--report-file`", f"`{layout.images[0]}`"
        return cls(layout.name, partial(read_vqa, layout), source, *files, tasks=tasks)

    @classmethod
    def of_layout(cls, layout: Layout, source: str) -> DataSetRow:
        """Return the row of a data set that is laid out as RULE and MMed-RAG have it."""
        images = f"`{layout.images[0]}/{layout.shape}`"
        files = f"`{layout.questions[0]}`", f"`{layout.reports[0]}`", images
        return cls(layout.name, partial(read_layout, layout), source, *files)


ROWS = (
    DataSetRow.of_layout(IU_XRAY, "IU X-ray, with the questions of RULE"),
    DataSetRow.of_layout(MIMIC_CXR, "MIMIC-CXR (PhysioNet), with the questions of RULE"),
    DataSetRow.of_layout(FAIRVLMED, "Harvard-FairVLMed, with the questions of RULE"),
    DataSetRow(
        "vqa-rad",
        vqa_rad.read_vqa_rad,
        "VQA-RAD, Lau et al., 2018",
        f"`{vqa_rad.QUESTIONS[0]}` or `{vqa_rad.QUESTIONS[1]}`",
        f"it has none: its training questions (`{vqa_rad.TRAINING[0]}`) with their answers, or a "
        "table of pairs with `--report-file`",
        f"`{vqa_rad.IMAGES[0]}`",
        tasks=("yes-no", "open"),
    ),
    DataSetRow.of_vqa(SLAKE, "SLAKE (English), Liu et al., 2021", "yes-no", "open"),
    DataSetRow.of_vqa(PATH_VQA, "PathVQA, He et al., 2020", "yes-no", "open"),
    DataSetRow.of_vqa(PMC_VQA, "PMC-VQA, Zhang et al., 2023", "choice"),
    DataSetRow.of_vqa(OMNIMEDVQA, "OmniMedVQA (open access), Hu et al., 2024", "choice"),
    DataSetRow.of_annotations(IU_XRAY, "IU X-ray, annotations of R2Gen"),
    DataSetRow.of_annotations(MIMIC_CXR, "MIMIC-CXR (PhysioNet), annotations of R2Gen"),
    DataSetRow(
        "table",
        table.read_table,
        "your own tables",
        " or ".join(f"`{name}`" for name in table.QUESTIONS),
        " or ".join(f"`{name}`" for name in table.PAIRS),
        "as the tables name them",
        tasks=("yes-no", "open", "report"),
    ),
)
"""All data sets, in the order of the documentation."""

DATA_SETS = tuple(row.name for row in ROWS)
"""Their names; ``table`` is one's own."""


def read_data(
    name: str,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked | None = None,
) -> EvaluationSet:
    """Read a data set from its folder.

    Parameters
    ----------
    name
        One of `DATA_SETS`.
    root
        Its folder.
    questions, reports, images
        Question file, file of pairs, image folder, where they do not lie at their usual place.
    rule
        ``leading`` or ``cares``: how gold answers become labels.
    answers_only
        Only answers are to be scored: neither images nor pairs are needed.
    asked
        What the task takes of it; by default yes or no, read by the rule.

    Raises
    ------
    InputError
        If there is no such data set, it has no questions of this task, or it cannot be read.
    """
    asked = asked or yes_or_no(rule)
    for row in ROWS:
        if row.name == name:
            if asked.task not in row.tasks:
                raise InputError(
                    f"data set {name!r} has nothing to ask for --task {asked.task}; it has: "
                    f"{', '.join(row.tasks)}"
                )
            return row.read(
                root,
                questions=questions,
                reports=reports,
                images=images,
                rule=rule,
                answers_only=answers_only,
                asked=asked,
            )
    raise InputError(f"there is no data set {name!r}; there are: {', '.join(DATA_SETS)}")


def data_sets_markdown() -> str:
    """Return the table of the documentation."""
    head = ("`--data`", "what", "`--task`", "questions", "reports", "images")
    lines = [
        (
            *(f"`{row.name}`", row.source, ", ".join(f"`{task}`" for task in row.tasks)),
            *(row.questions, row.reports, row.images),
        )
        for row in ROWS
    ]
    return markdown_table(head, lines)
