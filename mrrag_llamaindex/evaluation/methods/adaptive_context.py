"""MMed-RAG's adaptive choice of how many documents to read: as in its paper, and as in its code.

The two differ, and users have asked which is meant (MMed-RAG issues 18 and 45); both are rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.methods.ranking import IMAGE_TO_TEXT, check_count

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.generation.prompt.request import PromptDocument

PUBLISHED_RATIO = 1.5
"""The ratio that a comment in MMed-RAG's code names; its paper gives no value for gamma."""


@dataclass(frozen=True)
class GapCut:
    """Cut the ranking at the first large drop: MMed-RAG (Xia et al., ICLR 2025) as in its paper.

    With S_1 >= S_2 >= ... the image-to-report similarities, ``u_i = log(S_i / S_{i+1})``; the
    first i with ``u_i > gamma`` is the last document that is read. At most `most` are.

    The logarithm asks for positive similarities. A cosine may be negative: the ranking is then
    cut before the first that is not positive (S_i / S_{i+1} grows without bound as S_{i+1} falls
    to 0), and a first document that is itself not positive is read alone.

    Attributes
    ----------
    gamma : float
        Above 0. The paper gives no number; the default is the logarithm of the ratio in its code.
    most : int
    """

    gamma: float = math.log(PUBLISHED_RATIO)
    most: int = defaults.MAX_DOCUMENTS

    def __post_init__(self) -> None:
        check_count(self.most)
        if not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma!r}; it must be above 0")

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the documents before the cut."""
        candidates = data.fused(row, IMAGE_TO_TEXT, self.most)
        return candidates[: self.cut([float(item.score or 0.0) for item in candidates])]

    def cut(self, scores: Sequence[float]) -> int:
        """Return how many of the scores, best first, stand before the cut.

        Examples
        --------
        >>> GapCut(gamma=0.4).cut([0.9, 0.8, 0.5, 0.4])  # log(.8 / .5) is .47
        2
        """
        for place in range(1, len(scores)):
            before, here = scores[place - 1], scores[place]
            if here <= 0 or math.log(before / here) > self.gamma:
                return place
        return len(scores)


@dataclass(frozen=True)
class RatioToFirst:
    """Keep what is not much worse than the first: MMed-RAG (and RULE) as in their code.

    A document stays while ``S_1 / S_r < ratio`` (``retrieve_topk_per_image``, argument
    ``retrieve_threshold``), at most `most` of them. Since the scale of the logits cancels,
    cosines give the same.

    Their code filters by that test and nothing else, so a *negative* similarity passes it (the
    ratio is negative, hence below any threshold) although a small positive one fails, and with a
    negative S_1 everything passes. Here the ranking ends before the first similarity that is not
    positive, and a first document that is itself not positive is read alone; with
    ``negative="keep"`` the filter is theirs to the letter.

    Attributes
    ----------
    ratio : float
        Above 1; 1.5 stands in a comment of the code.
    most : int
    negative : {"cut", "keep"}
    """

    ratio: float = PUBLISHED_RATIO
    most: int = defaults.MAX_DOCUMENTS
    negative: str = "cut"

    def __post_init__(self) -> None:
        check_count(self.most)
        if not self.ratio > 1:
            raise ValueError(f"ratio is {self.ratio!r}; it must be above 1")
        if self.negative not in ("cut", "keep"):
            raise ValueError(f'negative is {self.negative!r}; it must be "cut" or "keep"')

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the documents that pass."""
        # Their filter runs over all pairs before it takes the best: a negative one can come in.
        count = self.most if self.negative == "cut" else len(data.pair_ids)
        candidates = data.fused(row, IMAGE_TO_TEXT, count)
        scores = [float(item.score or 0.0) for item in candidates]
        return [candidates[place] for place in self.passing(scores)]

    def passing(self, scores: Sequence[float]) -> list[int]:
        """Return the places, best first, of the scores that pass.

        Examples
        --------
        >>> scores = [0.9, 0.7, 0.5, -0.1]  # 0.9 / 0.7 is 1.29, 0.9 / 0.5 is 1.8
        >>> RatioToFirst().passing(scores), RatioToFirst(negative="keep").passing(scores)
        ([0, 1], [0, 1, 3])
        """
        if not scores:
            return []
        first = scores[0]
        if self.negative == "keep":
            ratios = [_ratio(first, score) for score in scores]
            return [place for place, ratio in enumerate(ratios) if ratio < self.ratio][: self.most]
        count = 1
        while count < len(scores) and scores[count] > 0 and first / scores[count] < self.ratio:
            count += 1
        return list(range(min(count, self.most)))


def _ratio(first: float, score: float) -> float:
    """Divide as tensors do: x / 0 is infinite, 0 / 0 is NaN and passes no test."""
    if score == 0:
        return math.copysign(math.inf, first) if first else math.nan
    return first / score
