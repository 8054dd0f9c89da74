"""The data sets that are read from a folder, one row each: a new one is one file and one row here.

Command line, documentation and tests take the names and everything else about them from `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.readers import table, vqa_rad
from mrrag_llamaindex.evaluation.data.readers.files import PathLike
from mrrag_llamaindex.evaluation.data.readers.layouts import FAIRVLMED, IU_XRAY, MIMIC_CXR, Layout
from mrrag_llamaindex.evaluation.data.readers.questions import read_layout
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
    """

    name: str
    read: Callable[..., EvaluationSet]
    source: str
    questions: str
    reports: str
    images: str

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
    ),
    DataSetRow(
        "table",
        table.read_table,
        "your own tables",
        " or ".join(f"`{name}`" for name in table.QUESTIONS),
        " or ".join(f"`{name}`" for name in table.PAIRS),
        "as the tables name them",
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

    Raises
    ------
    InputError
        If there is no such data set, or it cannot be read.
    """
    for row in ROWS:
        if row.name == name:
            return row.read(
                root,
                questions=questions,
                reports=reports,
                images=images,
                rule=rule,
                answers_only=answers_only,
            )
    raise InputError(f"there is no data set {name!r}; there are: {', '.join(DATA_SETS)}")


def data_sets_markdown() -> str:
    """Return the table of the documentation."""
    head = ("`--data`", "what", "questions", "reports", "images")
    lines = [(f"`{row.name}`", row.source, row.questions, row.reports, row.images) for row in ROWS]
    return markdown_table(head, lines)
