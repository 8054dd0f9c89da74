"""Findings that a report states, by word lists: present, absent or uncertain.

In the manner of NegEx (Chapman et al., 2001): a sentence is cut into parts, each mention of a
finding is looked up in its part, and words before or right behind it deny or doubt it. A finding
mentioned several times is present if any mention says so, else uncertain, else absent: "no edema.
Mild edema at the bases" is present.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mrrag_llamaindex.evaluation.tasks.metrics.finding_terms import (
    BREAKS,
    DENIED_AFTER,
    DENIED_BEFORE,
    DOUBTED_AFTER,
    DOUBTED_BEFORE,
    FINDING_TERMS,
)
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure, Numbers, f1

Statement = Literal["present", "uncertain", "absent"]

FINDINGS = tuple(FINDING_TERMS)
"""Their names, in the order of the columns of `label_f1`."""


def _any(patterns: Sequence[str]) -> str:
    return "(?:" + "|".join(patterns) + ")"


_TERMS = {name: re.compile(rf"\b{_any(terms)}\b") for name, terms in FINDING_TERMS.items()}
_PARTS = re.compile(rf"[.;!?\n]+|\b{_any(BREAKS)}\b")
_DENIED_BEFORE = re.compile(rf"\b{_any(DENIED_BEFORE)}\b")
_DENIED_AFTER = re.compile(rf"\s*{_any(DENIED_AFTER)}\b")
_DOUBTED_BEFORE = re.compile(rf"\b{_any(DOUBTED_BEFORE)}\b")
_DOUBTED_AFTER = re.compile(rf"\s*{_any(DOUBTED_AFTER)}\b")
_STRENGTH: dict[Statement, int] = {"absent": 0, "uncertain": 1, "present": 2}


def report_findings(text: str) -> dict[str, Statement]:
    """Return what a report states about each finding that it mentions.

    Examples
    --------
    >>> report_findings("No pleural effusion or pneumothorax, but mild cardiomegaly.")
    {'cardiomegaly': 'present', 'pneumothorax': 'absent', 'pleural effusion': 'absent'}
    >>> report_findings("Pneumonia cannot be excluded. Nodule: absent.")
    {'lung lesion': 'absent', 'pneumonia': 'uncertain'}
    """
    found: dict[str, Statement] = {}
    for part in _PARTS.split(text.casefold().replace("’", "'")):
        for name, pattern in _TERMS.items():
            for match in pattern.finditer(part):
                said = _statement(part[: match.start()], part[match.end() :])
                if name not in found or _STRENGTH[said] > _STRENGTH[found[name]]:
                    found[name] = said
    return {name: found[name] for name in FINDINGS if name in found}


def _statement(before: str, after: str) -> Statement:
    if _DOUBTED_BEFORE.search(before) or _DOUBTED_AFTER.match(after):
        return "uncertain"
    if _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
        return "absent"
    return "present"


def label_f1(answers: Sequence[str], golds: Sequence[str]) -> tuple[Measure, Measure]:
    """Return micro and macro F1 of the findings that reports call present.

    What a reference leaves uncertain is not counted for that report, whatever the answer says. In
    an answer, uncertain is not present. The macro mean is over the findings that a reference or an
    answer calls present at least once; it is 0 where there is none.
    """
    columns = label_counts(answers, golds).reshape(len(answers), -1)
    return Measure(columns, _micro), Measure(columns, _macro)


def label_counts(answers: Sequence[str], golds: Sequence[str]) -> Numbers:
    """Return true, false and missed findings of each answer, shape (n, 3, findings)."""
    rows = []
    for answer, gold in zip(answers, golds, strict=True):
        said, true = report_findings(answer), report_findings(gold)
        row = np.zeros((3, len(FINDINGS)))
        for place, name in enumerate(FINDINGS):
            if true.get(name) == "uncertain":
                continue
            pair = said.get(name) == "present", true.get(name) == "present"
            if any(pair):
                row[{(True, True): 0, (True, False): 1, (False, True): 2}[pair], place] = 1
        rows.append(row)
    return np.array(rows)


def _counts(sums: Numbers) -> Numbers:
    return sums.reshape(*sums.shape[:-1], 3, len(FINDINGS))


def _micro(sums: Numbers) -> Numbers:
    counts = _counts(sums).sum(axis=-1)
    return f1(counts[..., 0], counts[..., 1], counts[..., 2])


def _macro(sums: Numbers) -> Numbers:
    counts = _counts(sums)
    named = counts.sum(axis=-2) > 0
    each = f1(counts[..., 0, :], counts[..., 1, :], counts[..., 2, :])
    total = named.sum(axis=-1)
    return np.asarray(each.sum(axis=-1) / np.maximum(total, 1))
