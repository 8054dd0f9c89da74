"""The vote as a method of the table: no model reads anything, the pairs' own answers are counted.

What every generator has to beat. Where a question is a yes or a no, only pairs that answered one of
the two vote; to an open question every other pair's answer is one. What a pair answers stands in
its column of answers; where it has none, its finding labels answer a question that names one of the
findings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.methods.ranking import Fused
from mrrag_llamaindex.mcr.calibration import weights_digest
from mrrag_llamaindex.mcr.vote import YES_NO, Ballot, Vote, normal_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.method import Method
    from mrrag_llamaindex.evaluation.methods.tuning import Layers
    from mrrag_llamaindex.generation.prompt.request import PromptDocument
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

NO_ANSWERS = (
    "the pairs hold neither a yes nor a no: a vote needs a column answer or label in the table of "
    "pairs, or finding labels (--facts) that the questions name"
)

NO_OPEN_ANSWERS = (
    "the pairs hold no open answers: a vote needs a column answer or label in the table of pairs"
)

OPEN = "open"
"""The task whose answers are free text."""

TEMPERATURES = (0.02, 0.05, 0.1, 0.3)


@dataclass(frozen=True)
class Voters:
    """The k pairs of highest fused score among those that answer the question with yes or no.

    Attributes
    ----------
    weights : FusionWeights or QueryGatedWeights
    k : int
    temperature : float
        See `Vote`.
    digest : str
        See `Fused`.
    """

    weights: AnyWeights = field(repr=False)
    k: int = defaults.VOTE_DOCUMENTS
    temperature: float = defaults.VOTE_TEMPERATURE
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        Fused(self.weights, self.k), Vote(self.temperature)  # what they check, is checked here
        object.__setattr__(self, "digest", weights_digest(self.weights))

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the pairs that vote, best first."""
        answers = answers_to(data, row)
        return data.fused(row, self.weights, self.k, answers != "")

    def ballot(self, data: EmbeddedSet, row: int) -> tuple[Ballot | None, tuple[str, ...]]:
        """Return the vote on question ``row``, None if nobody can vote, and who voted."""
        voters = self.documents(data, row)
        if not voters:
            return None, ()
        answer = dict(zip(data.pair_ids, answers_to(data, row).tolist(), strict=True))
        names = tuple(str(item.document_id) for item in voters)
        scores = [float(item.score or 0.0) for item in voters]
        return Vote(self.temperature).count(scores, [answer[name] for name in names]), names


def answers_to(data: EmbeddedSet, row: int) -> NDArray[np.str_]:
    """Return what each pair answers to a question: ``"yes"``, ``"no"``, or nothing.

    To an open question it is the pair's own answer, unless that is a yes or a no.

    Returns
    -------
    ndarray of str, shape (m,)
    """
    if data.task == OPEN:
        texts = [(answer or "").strip() for answer in data.answers or [""] * len(data.pair_ids)]
        return np.array(["" if normal_answer(text) in YES_NO else text for text in texts])
    finding = None if data.answers else named_finding(data, data.questions[row].question)
    values = []
    for place, pair_id in enumerate(data.pair_ids):
        if data.answers:
            answer = normal_answer(data.answers[place] or "")
        else:
            present = data.facts.get(pair_id, {}).get(finding)
            answer = "" if present is None else YES_NO[not present]
        values.append(answer if answer in YES_NO else "")
    return np.array(values, dtype="<U3")


def named_finding(data: EmbeddedSet, question: str) -> str | None:
    """Return the finding that a question names, None if it names none, or several."""
    names = {name for labels in data.facts.values() for name in labels}
    text = _plain(question)
    named = [name for name in names if f" {_plain(name)} " in f" {text} "]
    # "pleural effusion" names no second finding "effusion".
    longest = [
        name for name in named if not any(name != o and _plain(name) in _plain(o) for o in named)
    ]
    return longest[0] if len(longest) == 1 else None


def has_answers(data: EmbeddedSet) -> bool:
    """Whether any pair answers any of the questions."""
    if data.answers or data.task == OPEN:
        answers = (normal_answer(answer or "") for answer in data.answers)
        return any(answer and (answer in YES_NO) != (data.task == OPEN) for answer in answers)
    return any(named_finding(data, item.question) is not None for item in data.questions)


def grid(method: Method, places: Sequence[Layers]) -> list[Method]:
    """Try 4 temperatures with 3 numbers of pairs."""
    ranking: Any = method.ranking
    return [
        replace(method, ranking=replace(ranking, k=k, temperature=temperature))
        for k in (max(1, ranking.k // 3), ranking.k, 3 * ranking.k)
        for temperature in TEMPERATURES
    ]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.replace("_", " ").casefold()))
