"""Choice: a question with its options, answered by the likelihood of an option, and by its letter.

The likelihood of an option is that of its text as the answer, token by token (teacher forcing),
under the same documents and steering. Options differ in length, and a sum of log-probabilities
favours short ones; so the answer is the option of the largest *mean* log-probability per token, and
what the sum would answer stands beside it. The letter is what the model writes when it is left to
answer; a text that begins with no letter of an option is invalid, and wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.evaluation.data.data_set import NO_OPTION, Asked
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.tasks.metrics.measures import Measure
from mrrag_llamaindex.evaluation.tasks.task import Scored, Scoring, Task

_LETTER = re.compile(
    r"[\W_]*((?:[Tt]he\s+)?(?:[Cc]orrect\s+)?(?:[Aa]nswer|[Oo]ption)(?:\s+is)?\s*:?[\W_]*)?"
    r"(?:([A-Z])(?![\w'’])|([a-z])(?=\s*(?:[).:]|$)))"
)
_WORD = re.compile(r"[AI][ \t]+(?!(?:is|because|as|since|and|or)\b)[a-z]")
"""The article, or the first person, at the head of a sentence: "A nodule is seen"."""


def letter_of(text: str) -> str:
    """Return the option that a text begins with, ``""`` if it begins with none.

    A small letter must stand alone or before a bracket, full stop or colon: "a nodule" is none, and
    neither is "A nodule".

    Examples
    --------
    >>> letter_of("B. Left lung"), letter_of("The answer is (c)"), letter_of("A nodule")
    ('B', 'C', '')
    """
    match = _LETTER.match(text)
    if match is None or (not match[1] and _WORD.match(text, match.end() - 1)):
        return ""
    return (match[2] or match[3]).upper()


def likeliest(likelihoods: Sequence[tuple[float, int]], *, per_token: bool = True) -> str:
    """Return the letter of the likeliest option, the first of equal ones.

    Examples
    --------
    >>> options = [(-3.0, 1), (-4.0, 4)]  # one token of -3; four of -1 each
    >>> likeliest(options), likeliest(options, per_token=False)
    ('B', 'A')
    """
    values = [total / count if per_token else total for total, count in likelihoods]
    return ascii_uppercase[int(np.argmax(values))]


def _gold(answer: str) -> str | tuple[str, str]:
    letter = answer.strip()
    if len(letter) == 1 and letter in ascii_uppercase:
        return letter
    return NO_OPTION, "its answer is none of its options"


def _by_likelihood(predictions: Sequence[Prediction], *, per_token: bool) -> Measure:
    if not all(item.likelihoods for item in predictions):
        raise MRRAGError("the likelihood of options is not known of every answer")
    chosen = [likeliest(item.likelihoods, per_token=per_token) for item in predictions]
    pairs = zip(chosen, predictions, strict=True)
    return Measure.mean([float(letter == item.gold) for letter, item in pairs])


def _score(predictions: Sequence[Prediction], scoring: Scoring) -> Scored:
    letters = [letter_of(item.text) for item in predictions]
    right = [one == item.gold for one, item in zip(letters, predictions, strict=True)]
    return Scored.of(
        {
            "likelihood": lambda: _by_likelihood(predictions, per_token=True),
            "likelihood_sum": lambda: _by_likelihood(predictions, per_token=False),
            "letter": lambda: Measure.mean(np.array(right, dtype=np.float64)),
            "no_letter": lambda: Measure.mean([float(not letter) for letter in letters]),
        }
    )


def _each(predictions: Sequence[Prediction], rule: str) -> NDArray[np.float64]:
    """Return whether each is right: by likelihood, or by letter where none is known."""
    chosen = [
        likeliest(item.likelihoods) if item.likelihoods else letter_of(item.text)
        for item in predictions
    ]
    pairs = zip(chosen, predictions, strict=True)
    return np.array([letter == item.gold for letter, item in pairs], dtype=np.float64)


CHOICE = Task(
    name="choice",
    asks="a question with its options, A, B, ...",
    right="the option of the largest mean log-probability per token; beside it by the sum, and by "
    "the letter that is written",
    scored="accuracy, three times; the rate of answers without a letter",
    asked=lambda rule, section: Asked("choice", _gold),
    score=_score,
    each=_each,
    main="likelihood",
    heads={
        "likelihood": "by likelihood",
        "likelihood_sum": "by its sum",
        "letter": "by letter",
        "no_letter": "no letter",
    },
    notes=(
        "By likelihood: the option of the largest mean log-probability per token is the answer; by "
        "its sum: of the largest sum, which favours short options.",
        "By letter: what is written; a text that begins with no letter is wrong. A row that "
        "decodes in a way of its own has no likelihood of options.",
    ),
    max_new_tokens=8,
    weighs_options=True,
)
