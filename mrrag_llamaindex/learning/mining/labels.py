"""Which candidates of a training question are its positive and its negatives."""

from __future__ import annotations

from collections.abc import Sequence

MARGIN = 0.05
"""How far a negative stays below the positive. The paper takes the m least confident whatever they
are; where all candidates lead to the answer these are good documents, too (a third of the negatives
of 200 phantom questions; with this margin one in 250)."""


def label(
    confidence: Sequence[float], negatives: int, margin: float = MARGIN
) -> tuple[int, tuple[int, ...]]:
    """Return the positive and the negatives of one question.

    Parameters
    ----------
    confidence
        Of n candidates, best-ranked first.
    negatives
        m, the most negatives.
    margin
        See `MiningSettings`.

    Returns
    -------
    positive : int
        The most confident; of equal ones the best-ranked.
    negatives : tuple of int
        The m least confident, least first; of equal ones the best-ranked first, since it is the
        harder negative. Only those that are below the positive, and by the margin: a document
        that does as well (another copy of the same report, say) is no example of what to avoid.
        So a single candidate, or candidates that are all alike, give none.

    Examples
    --------
    >>> label([0.25, 0.75, 0.25, 0.75, 0.5], 2)
    (1, (0, 2))
    """
    best = max(confidence)
    order = sorted(range(len(confidence)), key=lambda place: (confidence[place], place))
    below = [n for n in order if confidence[n] < best and round(best - confidence[n], 9) >= margin]
    return list(confidence).index(best), tuple(below[:negatives])
