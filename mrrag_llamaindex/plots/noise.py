"""What noise among the documents costs, and which policy wins back how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.marks import Point, draw_lines
from mrrag_llamaindex.plots.style import drawing, legend_below
from mrrag_llamaindex.plots.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = {
    "accuracy": ("accuracy", "ci"),
    "noise_attention": ("attention on\nirrelevant documents", "noise_attention_ci"),
}
_STEERED_BY = {"true": "true relevance", "mcr": "MCR's scores"}


def draw_noise(report: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw accuracy, and attention on irrelevant documents, against their share of the prompt.

    Parameters
    ----------
    report : mapping
        What ``mrrag noise --json`` prints: `NoiseReport.as_dict`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot. A row for each metric, a column for each kind of
        scores, and a line with a 95% band for each policy. Two kinds of noise are two columns
        under one kind of scores, and rows below each other under several.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    points = report["points"]
    kinds = sorted({point["adversarial"] for point in points})
    scores = list(dict.fromkeys(point["scores"] for point in points))
    if len(scores) == 1:
        grid = [[(metric, kind, scores[0]) for kind in kinds] for metric in _METRICS]
    else:
        grid = [[(metric, kind, one) for one in scores] for kind in kinds for metric in _METRICS]
    title = title or (
        f"{count(report['documents'], 'document')} in each prompt, {count(report['n'], 'question')}"
    )
    size = (1.4 + 3.3 * len(grid[0]), 1.1 + 2.1 * len(grid))
    with drawing(*size, title) as figure:
        plots = figure.subplots(len(grid), len(grid[0]), sharey="row", squeeze=False)
        for axes, (metric, kind, one) in zip(plots.flat, chain(*grid), strict=True):
            what, ends = _METRICS[metric]
            found = [
                point for point in points if (point["scores"], point["adversarial"]) == (one, kind)
            ]
            draw_lines(axes, _series(found, metric, ends))
            axes.set_title(f"steered by {_STEERED_BY[one]}")
            axes.set_xlabel(f"share of {'contradicting' if kind else 'irrelevant'} documents")
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel(what)
        legend_below(figure, plots[0][0])
    return figure


def _series(points: Sequence[Mapping[str, Any]], metric: str, ends: str) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for point in points:
        line = series.setdefault(point["policy"], [])
        if point[metric] is not None:
            line.append(Point(point["noise"], point[metric], *(point[ends] or (None, None))))
    return series
