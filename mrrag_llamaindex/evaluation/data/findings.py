"""What is relevant where nobody says so: documents whose finding labels agree with the question's.

On real data no one has marked which reports are evidence for a question. What can be had is a table
of finding labels (CheXpert, CheXbert), the source of facts of the factmm-rag row as well. A
question's own labels are those of its own report, which is never offered. A document is

- relevant if both know at least `LEAST_SHARED` labels in common (all of them, where the table has
  fewer) and every one is equal,
- irrelevant if any label that both know differs,
- neither, and never offered, if they agree in fewer than that.

Nothing is said about the answer: a relevant report may not speak of what is asked, and an
irrelevant one may. Which documents contradict the truth cannot be told from labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_SHARED = 3
"""Labels in common below which agreement says little: two agree by chance once in four times."""

RELEVANCE = (
    "relevant: a report of another patient whose finding labels agree with those of the question's "
    f"own report (at least {LEAST_SHARED} in common, or all of a smaller table); "
    "irrelevant: one in which any label differs"
)
"""The rule in one line, for whoever reads the figures."""

NOT_TOLD = (
    "no curve of contradicting documents: labels do not tell which report contradicts an answer"
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FindingLabels:
    """Finding labels of m reports as numbers.

    Attributes
    ----------
    names : tuple of str
        l findings that are known of at least one report.
    values : ndarray, shape (m, l), int8
        1 present, -1 absent, 0 not known.
    """

    names: tuple[str, ...]
    values: NDArray[np.int8]

    @classmethod
    def of(cls, pair_ids: Sequence[str], facts: Mapping[str, Mapping[str, bool]]) -> FindingLabels:
        """Lay out the labels of the pairs in their order."""
        names = tuple(sorted({name for labels in facts.values() for name in labels}))
        table = cls(names, np.zeros((len(pair_ids), len(names)), dtype=np.int8))
        for place, pair_id in enumerate(pair_ids):
            table.values[place] = table.row(facts.get(pair_id, {}))
        return table

    @property
    def least(self) -> int:
        """Labels that two reports must share to agree."""
        return min(LEAST_SHARED, len(self.names))

    def row(self, labels: Mapping[str, bool]) -> NDArray[np.int8]:
        """Return one report's labels as numbers, shape (l,)."""
        values = [0 if name not in labels else 1 if labels[name] else -1 for name in self.names]
        return np.array(values, dtype=np.int8)

    def compared(self, own: Mapping[str, bool]) -> tuple[Mask, Mask]:
        """Return which of the m reports are relevant to a question, and which are irrelevant.

        Parameters
        ----------
        own
            Labels of the question's own report.

        Examples
        --------
        >>> facts = {"a": {"edema": True, "mass": False}, "b": {"edema": False}, "c": {}}
        >>> labels = FindingLabels.of(["a", "b", "c"], facts)
        >>> relevant, irrelevant = labels.compared({"edema": True, "mass": False})
        >>> relevant.tolist(), irrelevant.tolist()
        ([True, False, False], [False, True, False])
        """
        products = self.values * self.row(own)
        differing = (products < 0).sum(axis=1)
        shared = (products != 0).sum(axis=1)
        return (differing == 0) & (shared >= max(1, self.least)), differing > 0
