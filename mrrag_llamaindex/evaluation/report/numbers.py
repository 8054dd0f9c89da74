"""Numbers of a table as text: shares in percent, with the ends of their intervals."""

from __future__ import annotations

from mrrag_llamaindex.statistics.bootstrap import Interval


def percent(share: float, sign: str = "") -> str:
    """Return a share in percent.

    Examples
    --------
    >>> percent(0.1234), percent(0.05, "+")
    ('12.3', '+5.0')
    """
    return f"{100 * share:{sign}.1f}"


def ends(interval: Interval | None, sign: str = "") -> str:
    """Return an interval as it stands behind its value, nothing if there is none."""
    if interval is None:
        return ""
    return f" [{percent(interval[0], sign)}, {percent(interval[1], sign)}]"


def p_value(value: float) -> str:
    """Return a p-value.

    Examples
    --------
    >>> p_value(0.04), p_value(0.0001)
    ('.040', '<.001')
    """
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def listed(interval: Interval | None) -> list[float] | None:
    """Return an interval as JSON has it."""
    return None if interval is None else list(interval)


def columns(name: str, interval: Interval | None) -> dict[str, object]:
    """Return the ends of an interval as columns of a table of numbers."""
    return {} if interval is None else {f"{name}_low": interval[0], f"{name}_high": interval[1]}
