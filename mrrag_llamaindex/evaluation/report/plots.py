"""Pictures of results, with matplotlib (the extra ``plot``).

Figures are made without pyplot: no window, no global state. The same numbers give the same file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mrrag_llamaindex.errors import InputError, MRRAGError
from mrrag_llamaindex.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito: told apart by the colour-blind, too."""

_MARKERS = "osD^vP*X"

_MOST_TICKS = 16
"""More points along x than these get matplotlib's own ticks."""

_UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@dataclass(frozen=True)
class Point:
    """A value with its interval.

    Parameters
    ----------
    x, y : float
    low, high : float or None
        95%; both or neither.

    Raises
    ------
    ValueError
        If only one end is given, or they are the wrong way round.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}")


def line_plot(
    series: Mapping[str, Sequence[Point]],
    xlabel: str,
    ylabel: str,
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> Path:
    """Draw one line for each series, with its intervals as bands.

    Parameters
    ----------
    series
        Name to points; they are drawn from left to right, whatever their order.
    xlabel, ylabel
        Of the axes, with the unit.
    path
        ``.png``, ``.svg`` or ``.pdf``; its folder is made if absent.
    title
        By default none.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    InputError
        If there is nothing to draw, or the file cannot be written.
    MRRAGError
        If matplotlib is not installed.
    """
    if not any(series.values()):
        raise InputError("there are no points to draw")
    figure, axes = _figure(6.4, 4.2)
    for number, (name, points) in enumerate(series.items()):
        order = sorted(points, key=lambda point: point.x)
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        x, y = [point.x for point in order], [point.y for point in order]
        # Earlier lines are wider, so that one still shows under another that covers it.
        beneath = len(series) - 1 - number
        axes.plot(
            x,
            y,
            color=colour,
            marker=marker,
            linewidth=1.2 + 0.6 * beneath,
            markersize=4 + 1.2 * beneath,
            label=_plain(name),
        )
        banded = [point for point in order if point.low is not None]
        axes.fill_between(
            [point.x for point in banded],
            [float(point.low or 0) for point in banded],
            [float(point.high or 0) for point in banded],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    measured = sorted({point.x for points in series.values() for point in points})
    if len(measured) <= _MOST_TICKS:
        axes.set_xticks(measured)
    axes.set_xlabel(_plain(xlabel))
    axes.set_ylabel(_plain(ylabel))
    axes.set_title(_plain(title))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _save(figure, path)


class Bars(Protocol):
    """A table that can be drawn: of yes or no, or of another task."""

    data: str
    n: int
    main: str

    @property
    def metrics(self) -> Sequence[str]:
        """Names of its metrics."""
        ...

    def bars(self, metric: str) -> list[tuple[str, float, Interval | None]]:
        """Return a metric of every method that has it, with its interval."""
        ...

    def line(self, metric: str) -> tuple[str, float] | None:
        """Return what to draw as a line, with its label."""
        ...


def table_plot(table: Bars, path: str | os.PathLike[str], *, metric: str | None = None) -> Path:
    """Draw a metric of every method with its interval, and the trivial baseline as a line.

    Parameters
    ----------
    table : ResultTable or ScoredTable
    path
        See `line_plot`.
    metric : str, optional
        One of the table's; default: its main one.

    Raises
    ------
    ValueError
        If there is no such metric.
    InputError, MRRAGError
        See `line_plot`.
    """
    metric = metric or table.main
    if metric not in table.metrics:
        raise ValueError(f"metric is {metric!r}; there are: {', '.join(table.metrics)}")
    bars = table.bars(metric)
    figure, axes = _figure(6.4, 1.4 + 0.36 * len(bars))
    places = list(range(len(bars)))
    axes.barh(places, [value for _, value, _ in bars], color=_COLOURS[0], alpha=0.35, height=0.6)
    for place, (_, value, ends) in zip(places, bars, strict=True):
        if ends is not None:
            axes.plot(ends, (place, place), color=_COLOURS[0], linewidth=2, solid_capstyle="butt")
        axes.plot([value], [place], "o", color=_COLOURS[0], markersize=5)
    if (always := table.line(metric)) is not None:
        label, value = always
        axes.axvline(value, color=_COLOURS[6], linestyle="--", linewidth=1, label=_plain(label))
        figure.legend(frameon=False, loc="outside upper right")
    axes.set_yticks(places, [_plain(name) for name, *_ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(metric.replace("_", " "))
    axes.set_title(_plain(f"{table.data}, n = {table.n}"), loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MRRAGError("pictures need matplotlib: pip install 'mrrag-llamaindex[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    import matplotlib

    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{target.name}: pictures are written as {', '.join(SUFFIXES)}")
    # Without a salt, an SVG's ids are random.
    with matplotlib.rc_context({"svg.hashsalt": "mrrag", "svg.fonttype": "none"}):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, dpi=150, metadata=_UNDATED[suffix])
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{target.name} cannot be written: {reason}") from None
    return target


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")
