"""The data sets by the names that ``mrrag eval --data`` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.readers.files import PathLike
from mrrag_llamaindex.evaluation.data.readers.layouts import LAYOUTS
from mrrag_llamaindex.evaluation.data.readers.questions import read_layout
from mrrag_llamaindex.evaluation.data.readers.table import read_table
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import read_vqa_rad

_READERS: dict[str, Callable[..., EvaluationSet]] = {
    **{name: partial(read_layout, layout) for name, layout in LAYOUTS.items()},
    "vqa-rad": read_vqa_rad,
    "table": read_table,
}

DATA_SETS = tuple(_READERS)
"""Names of the data sets that are read from a folder; ``table`` is one's own."""


def read_data(
    name: str,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
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

    Raises
    ------
    InputError
        If there is no such data set, or it cannot be read.
    """
    if name not in _READERS:
        raise InputError(f"there is no data set {name!r}; there are: {', '.join(DATA_SETS)}")
    return _READERS[name](root, questions=questions, reports=reports, images=images, rule=rule)
