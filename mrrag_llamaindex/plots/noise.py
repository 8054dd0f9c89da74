"""What noise among the documents costs, and which policy wins back how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.marks import Point, draw_lines
from mrrag_llamaindex.plots.style import drawing, legend_below

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
        Not shown and not registered with pyplot. A row for each metric and kind of noise, a
        column for each kind of scores, a line with a 95% band for each policy.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    points = report["points"]
    rows = [
        (metric, adversarial)
        for adversarial in sorted({point["adversarial"] for point in points})
        for metric in _METRICS
    ]
    columns = list(dict.fromkeys(point["scores"] for point in points))
    title = title or f"{report['documents']} documents in each prompt, {report['n']} questions"
    with drawing(1.4 + 3.3 * len(columns), 1.1 + 2.1 * len(rows), title) as figure:
        grid = figure.subplots(len(rows), len(columns), sharey="row", squeeze=False)
        for line, (metric, adversarial) in zip(grid, rows, strict=True):
            what, ends = _METRICS[metric]
            kind = "contradicting" if adversarial else "irrelevant"
            for axes, scores in zip(line, columns, strict=True):
                shown = [
                    point
                    for point in points
                    if (point["scores"], point["adversarial"]) == (scores, adversarial)
                ]
                draw_lines(axes, _series(shown, metric, ends))
                axes.set_title(f"steered by {_STEERED_BY[scores]}")
                axes.set_xlabel(f"share of {kind} documents")
            line[0].set_ylabel(what)
        legend_below(figure, grid[0][0])
    return figure


def _series(points: Sequence[Mapping[str, Any]], metric: str, ends: str) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for point in points:
        line = series.setdefault(point["policy"], [])
        if point[metric] is not None:
            line.append(Point(point["noise"], point[metric], *(point[ends] or (None, None))))
    return series
