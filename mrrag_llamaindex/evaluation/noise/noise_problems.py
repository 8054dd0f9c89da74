"""Why a question of one's own data cannot be asked in the noise study, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import Problem

OWN_REPORT = "own report unknown"
OWN_LABELS = "own finding labels unknown"
FEW_RELEVANT = "too few relevant documents"
FEW_IRRELEVANT = "too few irrelevant documents"
NO_ROOM = "prompt cannot be built"


def check_any(kept: Sequence[str], problems: Sequence[Problem], name: str) -> None:
    """Raise `InputError`, with the reasons and what to do, if no question is left."""
    if kept:
        return
    counts = Counter(item.kind for item in problems).most_common()
    why = ", ".join(f"{count} x {kind}" for kind, count in counts)
    most = counts[0][0]
    way_on = {
        OWN_REPORT: "; give their labels by question_id (--question-facts), or a file of reports "
        "(--report-file) that also holds the questions' own: they are never offered",
        OWN_LABELS: "; give their labels in --facts, too",
        NO_ROOM: "; ask for fewer --documents, or take a model with a longer window",
        FEW_RELEVANT: "; ask for fewer --documents, or give labels of more reports",
        FEW_IRRELEVANT: "; ask for fewer --documents, or give labels of more reports",
    }
    raise InputError(f"{name}: no question can be asked ({why}){way_on.get(most, '')}")
