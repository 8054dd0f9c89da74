"""A calibration on patients that it was not fitted on: a reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.style import (
    COLOURS,
    INK,
    MAIN,
    MUTED,
    PALE,
    SMALL,
    drawing,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEP = 0.05


def draw_calibration(calibration: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw what was promised and what happened, with the documents behind each point.

    Parameters
    ----------
    calibration : mapping
        What ``mrrag calibrate --json`` prints: `CalibrationReport.as_dict`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot. On the left a point for each bin (mean
        probability, share that came true, 95% interval) against the diagonal, both axes over the
        same stretch; on the right how many documents each bin holds.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    bins = calibration["reliability"]
    with drawing(7.6, 3.7, title or "Calibration on patients held out") as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _draw_points(left, bins, calibration["abstention"])
        _draw_counts(right, bins)
        left.set_title(_scores(calibration), fontsize=SMALL, color=MUTED)
    return figure


def _draw_points(
    axes: Axes, bins: Sequence[Mapping[str, Any]], abstention: Mapping[str, Any] | None
) -> None:
    axes.axline((0, 0), slope=1, color=MUTED, linestyle="--", linewidth=1, label="as promised")
    for item in bins:
        if item["ci"] is not None:
            axes.plot([item["promised"]] * 2, item["ci"], color=MAIN, linewidth=2, alpha=0.45)
    axes.plot(
        [item["promised"] for item in bins],
        [item["happened"] for item in bins],
        *("o",),
        color=MAIN,
        markersize=6,
        clip_on=False,  # those at 0 and 1 are seen whole
        label="bin, 95% interval",
    )
    shown = [value for item in bins for value in (item["promised"], item["happened"])]
    shown += [end for item in bins for end in item["ci"] or ()]
    if abstention is not None:
        threshold = abstention["threshold"]
        shown.append(threshold)
        axes.axvline(threshold, color=COLOURS[1], linestyle=":", label="threshold for an answer")
    # Steps are counted in whole numbers, so that .85 is not .8500000000000001.
    low = max(0, math.floor(min(shown) / _STEP - 0.2)) * _STEP
    high = min(round(1 / _STEP), math.ceil(max(shown) / _STEP + 0.2)) * _STEP
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel("promised: mean probability")
    axes.set_ylabel("happened: share that supports\na right answer")
    axes.legend(frameon=False, loc="upper left")
    tidy(axes)


def _draw_counts(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(bins))
    bars = axes.barh(places, [item["documents"] for item in bins], color=PALE, height=0.62)
    counts = [f"{item['documents']:,}" for item in bins]
    axes.bar_label(bars, counts, padding=3, fontsize=SMALL, color=INK)
    axes.set_yticks(places, list(map(_span, bins)))
    axes.set_xlim(0, 1.22 * max(item["documents"] for item in bins))
    axes.set_xticks([])
    axes.set_title("documents in each bin of probability", fontsize=SMALL, color=MUTED)
    tidy(axes, None)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _span(item: Mapping[str, Any]) -> str:
    low, high = f"{item['low']:.3f}", f"{item['high']:.3f}"
    return low if low == high else f"{low} to {high}"


def _scores(calibration: Mapping[str, Any]) -> str:
    curve, base = calibration["quality"]["brier"], calibration["base_rate"]["brier"]
    return f"Brier score {curve:.3f}; one probability for all {base:.3f}"
