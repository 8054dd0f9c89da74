"""The vote: every retrieved pair gives its own answer the weight of its score.

The share of an answer a among pairs with scores s_1 ... s_k and answers a_1 ... a_k is

    p(a) = sum over i with a_i = a of softmax(s / tau)_i,

and the answer of the largest share wins. No generator and no GPU: it shows at once what retrieval
is worth, and is the floor that every generator must beat.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrrag_llamaindex import defaults

YES_NO = ("yes", "no")
"""The answers to a closed question."""

ANSWER_COLUMNS = ("answer", "label")
"""Metadata that holds a pair's own answer, unless another is named; the first that it has."""

_POLAR = re.compile(r"(yes)\b|(no)\s*(?:[^\w\s-]|-(?!\w)|$)", re.IGNORECASE)
_POLAR_QUESTION = re.compile(
    r"\W*(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ballot:
    """What was voted.

    Attributes
    ----------
    answer : str
        The winner, as the best-scored pair that gave it wrote it.
    shares : dict of str to float
        By answer in its normal form (`normal_answer`), largest first; they add up to 1.
    weights : tuple of float
        Of each pair, in the order given.
    """

    answer: str
    shares: dict[str, float]
    weights: tuple[float, ...]

    @property
    def p_yes(self) -> float:
        """Share of yes."""
        return self.shares.get("yes", 0.0)

    @property
    def p_no(self) -> float:
        """Share of no."""
        return self.shares.get("no", 0.0)


@dataclass(frozen=True)
class Vote:
    """How answers are counted.

    Attributes
    ----------
    temperature : float
        tau, in the unit of the scores: the smaller, the more the best pair decides.

    Raises
    ------
    ValueError
        If it is not above 0.
    """

    temperature: float = defaults.VOTE_TEMPERATURE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"the vote's temperature is {self.temperature!r}; it must be above 0")

    def count(self, scores: Sequence[float], answers: Sequence[str]) -> Ballot:
        """Count the answers of some pairs, at least one.

        Parameters
        ----------
        scores
            Of each pair.
        answers
            What each pair answered.

        Examples
        --------
        >>> ballot = Vote(temperature=1.0).count([1.0, 1.0, 0.0], ["Yes", "no", "No."])
        >>> ballot.answer, {name: round(share, 3) for name, share in ballot.shares.items()}
        ('no', {'no': 0.578, 'yes': 0.422})
        """
        if not len(scores) or len(scores) != len(answers):
            raise ValueError(f"{len(scores)} scores and {len(answers)} answers cannot be counted")
        values = np.asarray(scores, dtype=np.float64) / self.temperature
        weights = np.exp(values - values.max())
        weights /= weights.sum()
        shares: dict[str, float] = {}
        written: dict[str, str] = {}
        for place in np.argsort(-values, kind="stable").tolist():
            name = normal_answer(answers[place])
            shares[name] = shares.get(name, 0.0) + float(weights[place])
            written.setdefault(name, answers[place].strip())
        # Of equal shares the answer of the better pair comes first: sorting is stable.
        ranked = dict(sorted(shares.items(), key=lambda item: -item[1]))
        return Ballot(written[next(iter(ranked))], ranked, tuple(weights.tolist()))


def polarity(answer: str) -> str | None:
    """Return ``"yes"`` or ``"no"`` for an answer to a yes/no question, else None.

    The first word decides. A "no" must be followed by punctuation or by nothing: "No acute
    disease" is a finding, and "no-contrast CT" a scan, not an answer to a yes/no question.

    Examples
    --------
    >>> polarity("Yes, on the left."), polarity("no"), polarity("No acute disease.")
    ('yes', 'no', None)
    """
    match = _POLAR.match(answer.strip())
    return (match[1] or match[2]).lower() if match else None


def normal_answer(answer: str) -> str:
    """Return what is equal for answers that say the same: yes, no, or the text without its dress.

    Examples
    --------
    >>> normal_answer("Yes, on the left."), normal_answer("The  Right lung."), normal_answer("No")
    ('yes', 'right lung', 'no')
    """
    text = " ".join(answer.split()).strip(" .,;:!?\"'").casefold()
    return polarity(text) or re.sub(r"^(?:the|an|a) (?=\S)", "", text)


def answer_of(metadata: Mapping[str, Any], column: str | None = None) -> str | None:
    """Return the answer that a pair's metadata holds, None if it holds none.

    Parameters
    ----------
    metadata
        Of the pair.
    column
        Its key; by default the first of `ANSWER_COLUMNS` that is there. True and False are a yes
        and a no.
    """
    for name in ANSWER_COLUMNS if column is None else (column,):
        value = metadata.get(name)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is not None and str(value).strip():
            return str(value)
    return None


def asks_yes_or_no(question: str) -> bool:
    """Whether a question in English can be answered with yes or no: by its first word.

    Examples
    --------
    >>> asks_yes_or_no("Is there an effusion?"), asks_yes_or_no("Is this a CT or an MRI?")
    (True, False)
    """
    return bool(_POLAR_QUESTION.match(question)) and not re.search(r"\bor\b", question.casefold())


def voters(question: str, answers: Sequence[str | None]) -> list[int]:
    """Return the places of the answers that count.

    To a question that asks for yes or no only a yes or a no is an answer; to every other question
    neither is. Where no pair has an answer of the right kind, every answer counts.
    """
    known = [place for place, answer in enumerate(answers) if answer is not None]
    closed = asks_yes_or_no(question)
    fitting = [place for place in known if (normal_answer(str(answers[place])) in YES_NO) is closed]
    return fitting or known
