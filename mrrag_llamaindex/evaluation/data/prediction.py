"""One answer of one method, and what all answers of a method depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

Q = TypeVar("Q", "GoldQuestion", "Prediction")

YES_NO_TASK = "yes-no"
"""The task whose gold labels are yes and no."""


@dataclass(frozen=True)
class PredictionHeader:
    """What every answer of a file depends on.

    Parameters
    ----------
    method : str
    data : str
        ``EvaluationSet.digest``.
    model : str
        Identity of the generator.
    seed : int
    settings : dict
        Whatever else decides the answers; plain JSON values.
    task : str
        What was asked; files of earlier releases do not say, and hold answers of ``yes-no``.
    """

    method: str
    data: str
    model: str
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    task: str = YES_NO_TASK


@dataclass(frozen=True)
class Prediction:
    """What one method answered to one question.

    Parameters
    ----------
    method, question_id : str
    patient_id : str or None
        None where unknown: the question then counts as a patient of its own.
    gold : str
        ``"yes"`` or ``"no"``; for another task the gold answer, the letter of the right option, or
        the reference report (which files of answers leave empty).
    text : str
        The answer as the model wrote it.
    p_yes, p_no : float or None
        Probabilities of the two as first words; None where they are not known.
    documents : tuple of str
        Ids of the pairs in the prompt, in its order.
    task : str
        What was asked.
    likelihoods : tuple of (float, int)
        Log-probability of each option as the answer, and how many tokens it has; empty where
        there are no options, or none is known.

    Raises
    ------
    InputError
        If the gold label is neither, or a probability is not one.
    """

    method: str
    question_id: str
    patient_id: str | None
    gold: str
    text: str
    p_yes: float | None = None
    p_no: float | None = None
    documents: tuple[str, ...] = ()
    task: str = YES_NO_TASK
    likelihoods: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        name = f"the answer of {self.method!r} to question {self.question_id!r}"
        if self.task == YES_NO_TASK and self.gold not in ("yes", "no"):
            raise InputError(f"{name} has the gold label {self.gold!r}; it must be 'yes' or 'no'")
        if not isinstance(self.text, str):
            raise InputError(f"{name} is a {type(self.text).__name__}, not text")
        for value in (self.p_yes, self.p_no):
            if value is not None and not (math.isfinite(value) and -1e-6 <= value <= 1 + 1e-6):
                raise InputError(f"{name} has a probability of {value!r}")
        if any(not math.isfinite(total) or count < 1 for total, count in self.likelihoods):
            raise InputError(f"{name} has an option without a likelihood")

    @property
    def owner(self) -> str:
        """Whom the bootstrap draws: the patient, or the question where no patient is known."""
        known = self.patient_id is not None
        return f"patient:{self.patient_id}" if known else f"question:{self.question_id}"


def pool(runs: Mapping[int, Sequence[Prediction]]) -> list[Prediction]:
    """Put the answers of several data seeds together, as of different questions and patients.

    Parameters
    ----------
    runs
        By seed of the data. ``q1`` of seed 3 becomes ``seed3/q1``, and its patient likewise.
    """
    return [of_seed(item, seed) for seed, items in sorted(runs.items()) for item in items]


def of_seed(item: Q, seed: int) -> Q:
    """Return a question, or an answer to one, under the names that it has among several seeds."""
    patient = None if item.patient_id is None else f"seed{seed}/{item.patient_id}"
    return replace(item, question_id=f"seed{seed}/{item.question_id}", patient_id=patient)
