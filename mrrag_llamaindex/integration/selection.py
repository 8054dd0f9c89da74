"""Which of the ranked documents are shown: a fixed number, or those that are probable enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError, NoRelevantCase

if TYPE_CHECKING:
    from mrrag_llamaindex.mcr.calibration import Calibration
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


@dataclass(frozen=True)
class Selection:
    """How many documents are kept, and when there is no answer.

    Parameters
    ----------
    most : int
        Most documents.
    calibration : Calibration or None
        Turns scores into probabilities; needed for everything below.
    minimum_probability : float or None
        Documents less probable than this to support a right answer are left out. None: none are.
    minimum_documents : int
        So many are kept however improbable they are.
    abstain : bool
        Raise `NoRelevantCase` where the best document is below the calibration's threshold.

    Raises
    ------
    ValueError
        If a number is out of range.
    InputError
        If there is no calibration, or no threshold in it, for what is asked.
    """

    most: int
    calibration: Calibration | None = None
    minimum_probability: float | None = None
    minimum_documents: int = 1
    abstain: bool = False

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"similarity_top_k must be at least 1, not {self.most}")
        if not 1 <= self.minimum_documents <= self.most:
            raise ValueError(
                f"minimum_documents is {self.minimum_documents}; it must be at least 1, and not "
                f"above {self.most}, the most documents"
            )
        low = self.minimum_probability
        if low is not None and not 0 <= low <= 1:
            raise ValueError(f"minimum_probability is {low}; it must be between 0 and 1")
        wanted = [
            name
            for name, value in (("minimum_probability", low is not None), ("abstain", self.abstain))
            if value
        ]
        if wanted and self.calibration is None:
            raise InputError(
                f"{wanted[0]} needs a calibration: make one with mrrag calibrate, and put it "
                "beside the store as calibration.json or give it as calibration="
            )
        if self.abstain and self.calibration and self.calibration.abstention is None:
            raise InputError(
                "abstain=True needs a threshold with a stated error rate, and this calibration has "
                "none: calibrate with more questions, or with a higher --error-rate"
            )

    def check(self, towers_identity: str, weights: AnyWeights) -> None:
        """Raise `InputError` if the calibration belongs to other towers or other weights."""
        if self.calibration is not None:
            self.calibration.check(towers_identity, weights)

    def select(self, scores: Sequence[float | None], *, whole: bool) -> list[dict[str, Any]]:
        """Return, for each document that is kept, what its metadata should say.

        Parameters
        ----------
        scores : sequence of float or None
            Best first; those without a score come last and have no probability.
        whole : bool
            Whether the question has an image and a text, as those that were calibrated on. Scores
            of others are sums of fewer terms: they get no probability, and what needs one is
            refused.

        Raises
        ------
        NoRelevantCase
        InputError
            If a probability is needed and the question is not whole.
        """
        kept = list(scores[: self.most])
        if self.calibration is None:
            return [{} for _ in kept]
        if not whole:
            if self.abstain or self.minimum_probability is not None:
                raise InputError(
                    "the calibration was fitted on questions with an image and a text, and this "
                    "one lacks one of them: ask it without minimum_probability and abstain"
                )
            return [{} for _ in kept]
        known = [score for score in kept if score is not None]
        values: list[float | None] = list(self.calibration.probability(known).tolist())
        values += [None] * (len(kept) - len(known))
        if self.abstain:
            self._check_best(values[0])
        if self.minimum_probability is None:
            return [_facts(value) for value in values]
        low = self.minimum_probability
        enough = sum(value is not None and value >= low for value in values)
        count = max(enough, min(self.minimum_documents, len(values)))
        return [{**_facts(value), "left_out": len(values) - count} for value in values[:count]]

    def _check_best(self, best: float | None) -> None:
        assert self.calibration is not None
        rule = self.calibration.abstention
        assert rule is not None
        if best is None or best < rule.threshold:
            raise NoRelevantCase(best or 0.0, rule.threshold, rule.error_rate, rule.confidence)


def _facts(probability: float | None) -> dict[str, Any]:
    return {} if probability is None else {"probability": probability}
