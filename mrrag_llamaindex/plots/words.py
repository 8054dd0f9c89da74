"""Numbers in words: as pictures, pages and the terminal write them."""

from __future__ import annotations


def signed_points(value: float) -> str:
    """Return percentage points with their sign, and nothing as 0.0.

    Examples
    --------
    >>> signed_points(12.34), signed_points(-0.04), signed_points(0.0)
    ('+12.3', '0.0', '0.0')
    """
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> count(1, "question token"), count(12, "question token")
    ('1 question token', '12 question tokens')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
