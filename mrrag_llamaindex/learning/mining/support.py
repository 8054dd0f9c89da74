"""Which candidates support an answer: what counts as a positive."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.mining.records import TrainingRecord

SupportRule = Literal["helps_right", "helps", "right"]
"""When a mined document supports a right answer, see `supporting_documents`."""

EVEN = 0.5
"""Confidence between right and wrong."""


def supporting_documents(
    record: TrainingRecord, rule: SupportRule = "helps_right"
) -> NDArray[np.bool_]:
    """Return which candidates of a mined question support a right answer.

    Parameters
    ----------
    record : TrainingRecord
    rule : {"helps_right", "helps", "right"}
        ``helps``: with the document alone the model gives the gold answer more confidently than
        with none. ``right``: it gives the gold one of yes and no the greater part of the
        probability; an open answer's log-probability has no such line, so it is refused.
        ``helps_right``: helps, and to a yes or no also right. A model that would say yes to
        everything is right on half of the questions whatever it reads, and one that a document
        has moved from .1 to .3 is still wrong; so both are asked for.

    Returns
    -------
    ndarray of bool
        Shape (n,).

    Raises
    ------
    InputError
        If the rule needs what the record does not have.
    ValueError
        If there is no such rule.
    """
    if rule not in get_args(SupportRule):
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(get_args(SupportRule))}")
    confidence = np.array(record.confidence)
    # A mean log-probability is below zero, a probability never is.
    is_open = min(*record.confidence, record.unaided or 0.0) < 0
    if rule == "right" and is_open:
        raise InputError(
            f"question {record.question_id!r} has an open answer, which has no line between right "
            'and wrong: choose rule "helps" or "helps_right"'
        )
    if rule != "right" and record.unaided is None:
        raise InputError(
            f"question {record.question_id!r} was not asked without documents, so nothing tells "
            'which of them help: mine it again, or choose rule "right"'
        )
    line = -np.inf if is_open or rule == "helps" else EVEN
    least = -np.inf if rule == "right" else record.unaided
    mask: NDArray[np.bool_] = (confidence > line) & (confidence > least)
    return mask
