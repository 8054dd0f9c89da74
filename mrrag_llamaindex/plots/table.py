"""A table of methods as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.marks import draw_bars
from mrrag_llamaindex.plots.style import drawing
from mrrag_llamaindex.plots.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAIN = "accuracy"
"""What answers of yes and no are compared by."""


def draw_table(table: Mapping[str, Any], *, metric: str | None = None, title: str = "") -> Figure:
    """Draw a metric of every method with its interval, and the trivial baseline as a line.

    Parameters
    ----------
    table : mapping
        What ``mrrag eval --json`` prints.
    metric : str, optional
        One of the table's; default: its main one.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot.

    Raises
    ------
    ValueError
        If no method has such a metric.
    MRRAGError
        If matplotlib is not installed.
    """
    metric = metric or table.get("main", _MAIN)
    rows = {row["method"]: row for row in table["rows"] if metric in row}
    if not rows:
        have = [name for row in table["rows"] for name in row if f"{name}_ci" in row]
        raise ValueError(f"metric is {metric!r}; there are: {', '.join(dict.fromkeys(have))}")
    title = title or f"{table['data']}, {count(table['n'], 'question')}"
    with drawing(6.4, 1.2 + 0.34 * len(rows), title) as figure:
        axes = figure.subplots()
        bars = {name: (row[metric], row[f"{metric}_ci"]) for name, row in rows.items()}
        always = _baseline(table, metric)
        draw_bars(axes, bars, always and always[1])
        axes.set_xlabel(f"{metric.replace('_', ' ')}, 95% intervals")
        if always:
            axes.set_title(f"dashed: {always[0]}, {always[1]:.3f}")
    return figure


def _baseline(table: Mapping[str, Any], metric: str) -> tuple[str, float] | None:
    majority = table.get("majority") or {}
    frequent = table.get("most_frequent") or {}
    if metric in majority:
        return f"always {majority['label']}", majority[metric]
    return ("most frequent answer", frequent[metric]) if metric in frequent else None
