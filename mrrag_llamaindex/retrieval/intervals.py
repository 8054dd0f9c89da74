"""What a bootstrap cannot tell: the interval of a share where all questions are right, or none."""

from __future__ import annotations


def share_interval(low: float, high: float, patients: int) -> tuple[float, float]:
    """Return a bootstrap's 95% interval of a share, or Wilson's where it has no width.

    Where all questions are right, or none, every bootstrap sample is the same, as if nothing could
    ever go wrong. Wilson's score interval over the patients stands there.

    Examples
    --------
    >>> [round(end, 3) for end in share_interval(1.0, 1.0, 300)]
    [0.987, 1.0]
    >>> share_interval(0.25, 0.5, 300)
    (0.25, 0.5)
    """
    if (low, high) not in ((0.0, 0.0), (1.0, 1.0)):
        return low, high
    from scipy.stats import binomtest

    ends = binomtest(round(low * patients), patients).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)
