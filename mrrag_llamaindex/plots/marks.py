"""What several pictures are made of: lines with bands, and bars with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.style import (
    COLOURS,
    INK,
    MAIN,
    MARKERS,
    OTHER,
    PALE,
    SMALL,
    shown,
    tidy,
)
from mrrag_llamaindex.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_TICKS = 16
"""More points along x than these get matplotlib's own ticks."""

_LONGEST = 32
"""Characters of a bar's name: a longer one would leave no room for the bars."""


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


def draw_lines(axes: Axes, series: Mapping[str, Sequence[Point]]) -> None:
    """Draw one line for each series, from left to right, with its intervals as a band."""
    for number, (name, points) in enumerate(series.items()):
        order = sorted(points, key=lambda point: point.x)
        colour = COLOURS[number % len(COLOURS)]
        again = number // len(COLOURS)  # a colour's second line has another marker and dashes
        # Earlier lines are wider, so that one still shows under another that covers it.
        beneath = (len(series) - 1 - number) / max(4, len(series) - 1)
        axes.plot(
            [point.x for point in order],
            [point.y for point in order],
            color=colour,
            marker=MARKERS[(number + again) % len(MARKERS)],
            linestyle="--" if again else "-",
            linewidth=1.2 + 2.4 * beneath,
            markersize=4 + 4 * beneath,
            label=name,
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
    tidy(axes)


Bar = tuple[float, Interval | None]
"""A share, and its 95% interval."""


def draw_bars(axes: Axes, rows: Mapping[str, Bar], line: float | None = None) -> None:
    """Draw one bar for each row, from the top, with its interval and its number.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        From 0 to 1.
    rows : mapping of str to Bar
    line : float, optional
        What is drawn across all of them.
    """
    places = range(len(rows))
    mark: dict[str, Any] = {"color": MAIN, "clip_on": False}  # those at 1 are seen whole
    axes.barh(places, [value for value, _ in rows.values()], color=PALE, height=0.62)
    for place, (value, ends) in zip(places, rows.values(), strict=True):
        if ends is not None:
            axes.plot(ends, (place, place), **mark, linewidth=2, solid_capstyle="butt")
        axes.plot([value], [place], "o", **mark, markersize=5)
        axes.annotate(
            f"{value:.3f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=INK,
        )
    if line is not None:
        axes.axvline(line, color=OTHER, linestyle="--", linewidth=1)
    axes.set_yticks(places, [shown(name, _LONGEST) for name in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    tidy(axes, "x")
    axes.tick_params(axis="y", length=0)
