"""Which reports say the same, and so are no negatives of each other."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

SAME_REPORT_JACCARD = 0.9
"""Above this share of common word pairs, reports of ordinary length differ in a word or two. Some
of them differ in a "no", and such hard negatives are given up: as negatives, the many that only
differ in a number or a name would push alike studies apart."""

_WORDS = re.compile(r"\w+")


class SameReports:
    """Which reports of a collection are equal or near-equal.

    Reports are equal if their words are, in order, but for case, blanks and punctuation. They are
    near-equal if the Jaccard index of their word pairs (neighbouring words) reaches a threshold.
    Pairs of words, not words: "no effusion, pneumothorax" and "effusion, no pneumothorax" have the
    same words and say the opposite.

    Parameters
    ----------
    reports : sequence of str
    threshold : float
        In (0, 1]; 1 keeps to reports with the same word pairs.

    Attributes
    ----------
    different : int
        Reports that differ in their words.

    Raises
    ------
    ValueError
        If the threshold is out of range.
    """

    def __init__(self, reports: Sequence[str], threshold: float = SAME_REPORT_JACCARD) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"the threshold must be above 0 and at most 1, not {threshold}")
        self.threshold = threshold
        known: dict[tuple[str, ...], int] = {}
        words = (tuple(_WORDS.findall(report.casefold())) for report in reports)
        self._number = torch.tensor([known.setdefault(one, len(known)) for one in words])
        self.different = len(known)
        self._near = _near_equal([_word_pairs(one) for one in known], threshold)

    def matrix(self, rows: Tensor, columns: Tensor | None = None, near: bool = True) -> Tensor:
        """Tell for each row and each column whether their reports say the same.

        Parameters
        ----------
        rows, columns : Tensor, int64
            Positions in the collection; without columns, the rows again.
        near : bool
            Count near-equal reports as well as equal ones.

        Returns
        -------
        Tensor, shape (len(rows), len(columns)), bool
        """
        first = self._number[rows]
        second = first if columns is None else self._number[columns]
        same = first[:, None] == second[None, :]
        if not near:
            return same
        places: dict[int, list[int]] = defaultdict(list)
        for place, number in enumerate(second.tolist()):
            places[number].append(place)
        for row, number in enumerate(first.tolist()):
            for other in self._near.get(number, ()):
                if other in places:
                    same[row, places[other]] = True
        return same


def _word_pairs(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(pairwise(words)) or frozenset([words])


def _near_equal(
    sets: Sequence[frozenset[tuple[str, ...]]], threshold: float
) -> dict[int, list[int]]:
    """Pairs of sets whose Jaccard index reaches the threshold, both ways.

    Prefix filter of Bayardo et al. (2007, "Scaling up all pairs similarity search"): two such
    sets share one of their ``|a| - ceil(t |a|) + 1`` rarest elements, so only few are compared.
    """
    counts = Counter(item for one in sets for item in one)
    near: dict[int, list[int]] = defaultdict(list)
    seen: dict[tuple[str, ...], list[int]] = defaultdict(list)
    order = sorted(range(len(sets)), key=lambda index: len(sets[index]))
    for index in order:
        one = sets[index]
        rarest = sorted(one, key=lambda item: (counts[item], item))
        # A hair below, so that rounding never makes the prefix too short.
        prefix = rarest[: len(one) - math.ceil(threshold * len(one) - 1e-9) + 1]
        candidates = {other for item in prefix for other in seen[item]}
        for other in candidates:
            shared = len(one & sets[other])
            if shared >= threshold * (len(one) + len(sets[other]) - shared) - 1e-9:
                near[index].append(other)
                near[other].append(index)
        for item in prefix:
            seen[item].append(index)
    return dict(near)
