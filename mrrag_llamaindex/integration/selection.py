"""Which of the ranked documents are shown: a fixed number, or those that are probable enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import InputError, NoRelevantCase
from mrrag_llamaindex.integration.inputs.options import require_count

if TYPE_CHECKING:
    from mrrag_llamaindex.mcr.calibration import Calibration
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


@dataclass(frozen=True)
class Selection:
    """How many documents are kept, and when there is no answer.

    Parameters
    ----------
    maximum_documents : int
    calibration : Calibration or None
        Turns scores into probabilities; needed for everything below.
    minimum_probability : float or None
        Documents less probable than this to support a right answer are left out. None: none are.
    minimum_documents : int
        Minimum documents kept, however improbable.
    abstain : bool
        Raise `NoRelevantCase` where the best document is below the calibration's threshold.

    Raises
    ------
    InputError
        If a number is out of range, or there is no calibration, or no threshold in it, for what
        is asked.
    """

    maximum_documents: int
    calibration: Calibration | None = None
    minimum_probability: float | None = None
    minimum_documents: int = 1
    abstain: bool = False

    def __post_init__(self) -> None:
        require_count("similarity_top_k", self.maximum_documents)
        if not 1 <= self.minimum_documents <= self.maximum_documents:
            raise InputError(
                f"minimum_documents is {self.minimum_documents}; it must be at least 1, and at "
                f"most {self.maximum_documents}, the maximum number of documents"
            )
        low = self.minimum_probability
        if low is not None and not 0 <= low <= 1:
            raise InputError(f"minimum_probability is {low}; it must be between 0 and 1")
        option = "minimum_probability" if low is not None else "abstain" if self.abstain else ""
        if option and self.calibration is None:
            raise InputError(
                f"{option} needs a calibration: make one with mrrag calibrate, and put it in the "
                "store's folder as calibration.json or give it as calibration="
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

    def select(self, scores: Sequence[float | None], *, complete: bool) -> list[dict[str, Any]]:
        """Return facts for the metadata of each document that is kept.

        Parameters
        ----------
        scores : sequence of float or None
            Best first; those without a score come last and have no probability.
        complete : bool
            Whether the question has an image and a text, as those of the calibration have. Scores
            of others are sums of fewer terms: they get no probability, and options that need one
            are refused.

        Raises
        ------
        NoRelevantCase
        InputError
            If a probability is needed and the question is not complete.
        """
        scores = scores[: self.maximum_documents]
        if self.calibration is None:
            return [{} for _ in scores]
        if not complete:
            if self.abstain or self.minimum_probability is not None:
                raise InputError(
                    "the calibration was fitted on questions with an image and a text, and this "
                    "one lacks one of them: ask it without minimum_probability and abstain"
                )
            return [{} for _ in scores]
        known = [score for score in scores if score is not None]
        values: list[float | None] = list(self.calibration.probability(known).tolist())
        values += [None] * (len(scores) - len(known))
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
