"""Where a model reads: what blocking attention around each layer changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.marks import Point, draw_lines
from mrrag_llamaindex.plots.style import MUTED, PALE, drawing
from mrrag_llamaindex.plots.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = "parts of the prompt"
_DOCUMENTS = "each document → question and last token"
_LEGEND = {_PARTS: 2, _DOCUMENTS: 3}
"""Columns of the legend below each; the more rows, the taller the figure."""


def draw_knockout(search: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw the change of the answer's probability by layer, for each edge that was blocked.

    Parameters
    ----------
    search : mapping
        What ``mrrag find-layers --json`` prints: `LayerSearch.as_dict`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot. A plot for the edges between parts of the prompt
        and one for those of single documents, where there are any; a line for each edge, with 95%
        intervals. The critical layers are shaded.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    panels: dict[str, dict[str, list[Point]]] = {_PARTS: {}, _DOCUMENTS: {}}
    for row in search["curve"]:
        edge = row["edge"].replace("->", " → ")
        panel = _PARTS
        if edge.startswith("document-"):
            panel, edge = _DOCUMENTS, edge.partition(" →")[0].replace("-", " ")
        panels[panel].setdefault(edge, []).append(Point(row["layer"], row["change"], *row["ci"]))
    shown = {name: lines for name, lines in panels.items() if lines}
    windows = "one layer" if search["window"] == 1 else f"{search['window']} layers"
    title = title or (
        f"Attention blocked in {windows} of {search['depth']} at a time, "
        f"{count(search['examples']['answered_correctly'], 'question')}"
    )
    deepest = max(-(-(len(lines) + 1) // _LEGEND[name]) for name, lines in shown.items())
    with drawing(0.8 + 3.8 * len(shown), 3.6 + 0.2 * deepest, title) as figure:
        row = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, (name, lines) in zip(row, shown.items(), strict=True):
            axes.axhline(0, color=MUTED, linewidth=0.8)
            draw_lines(axes, lines)
            for number, layer in enumerate(search["layers"]):
                label = "" if number else "critical layers"
                ends = (layer - 0.5, layer + 0.5)
                axes.axvspan(*ends, color=PALE, linewidth=0, zorder=0, label=label)
            axes.set_xlim(-0.5, search["depth"] - 0.5)
            axes.set_xlabel("layer in the middle of the window")
            axes.set_title(name)
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(0, -0.15),
                ncols=_LEGEND[name],
                frameon=False,
                borderpad=0,
            )
        row[0].set_ylabel("change of the answer's probability, %")
    return figure
