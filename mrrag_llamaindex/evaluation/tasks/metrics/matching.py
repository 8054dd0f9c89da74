"""When an open answer says what the gold answer says: exactly, or in part.

Both texts are brought into one form first, `mcr.vote.normal_answer`: without case, punctuation
around them, surplus blanks and a leading article; whatever begins with a plain yes or no is that.
"""

from __future__ import annotations

import re
from collections import Counter

from mrrag_llamaindex.mcr.vote import normal_answer


def exact_match(answer: str, gold: str) -> bool:
    """Whether two answers say the same, see `normal_answer`."""
    return normal_answer(answer) == normal_answer(gold)


def token_f1(answer: str, gold: str) -> float:
    """Return the F1 of words in common, as it is usual for open questions.

    Examples
    --------
    >>> round(token_f1("the right lung", "right upper lung"), 3)
    0.8
    """
    ours, theirs = (Counter(re.findall(r"\w+", normal_answer(text))) for text in (answer, gold))
    common = sum((ours & theirs).values())
    if not common:
        return 0.0
    precision, recall = common / sum(ours.values()), common / sum(theirs.values())
    return 2 * precision * recall / (precision + recall)
