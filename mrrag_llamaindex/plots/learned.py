"""What learning was worth, and how it went: fusion weights and towers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.plots.marks import Bar, draw_bars
from mrrag_llamaindex.plots.style import COLOURS, MUTED, SMALL, drawing, tidy
from mrrag_llamaindex.plots.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")
_FEW = 4
_BEYOND = ("four_terms", "gated")


def draw_fusion(comparison: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw recall@1 by learned, equal and single weights, and the losses of what was learned.

    Parameters
    ----------
    comparison : mapping
        What ``mrrag train-fusion --json`` prints: `FusionComparison.as_dict`, or several draws of
        data (``--seeds``), which have no losses and a plot for each regime.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    tables = comparison.get("regimes") or {"": comparison}
    training = comparison.get("training", {})
    rows = max(len(_recalls(table)) for table in tables.values())
    names = _columns(training.values())
    height = 1.3 + 0.3 * rows
    title = title or "First-ranked pair supports a right answer, on patients held out"
    with drawing(6.0 + 1.2 * len(tables), height + (2.3 if names else 0), title) as figure:
        parts = figure.subfigures(1 + bool(names), 1, squeeze=False)[:, 0]
        above = parts[0].subplots(1, len(tables), sharey=True, squeeze=False)[0]
        for axes, (regime, table) in zip(above, tables.items(), strict=True):
            draw_bars(axes, _recalls(table), table["chance"])
            axes.set_xlabel("recall@1, 95% intervals")
            about = f"{count(table['n'], 'question')}; dashed: chance {table['chance']:.3f}"
            axes.set_title(f"{regime}\n{about}" if regime else about)
        if names:
            _draw_training(parts[1].subplots(1, len(names), squeeze=False)[0], training, names)
    return figure


def draw_towers(results: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw a training of towers: loss and validation recall by epoch, and recall on test patients.

    Parameters
    ----------
    results : mapping
        What ``mrrag train-towers --json`` prints, and ``results.json`` beside the towers holds.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot. A line for each seed, with a ring at the epoch
        that was kept; recall of the ensemble, or of the best seed, where patients were held out
        for a test.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    seeds = results["seeds"]
    trained = {f"seed {entry['seed']}": entry for entry in seeds}
    names = _columns(seeds)
    best = max(seeds, key=lambda entry: entry["validation_recall"])
    test = results.get("ensemble") or best["test"]
    title = title or f"Towers of {results['pairs']:,} pairs of {results['patients']:,} patients"
    with drawing(8.2, 5.2 if test else 3.0, title) as figure:
        parts = figure.subfigures(1 + bool(test), 1, squeeze=False)[:, 0]
        _draw_training(parts[0].subplots(1, len(names), squeeze=False)[0], trained, names)
        if test:
            ways = {"image_to_report": "image → report", "report_to_image": "report → image"}
            for axes, way in zip(parts[1].subplots(1, 2), ways, strict=True):
                bars = {name: (cell["value"], _ends(cell)) for name, cell in test[way].items()}
                draw_bars(axes, bars)
                for place, cell in enumerate(test[way].values()):
                    chance = [cell["chance"]] * 2
                    axes.plot(chance, (place - 0.4, place + 0.4), color=COLOURS[1], linestyle="--")
                axes.set_title(f"{ways[way]}, {test['pairs']} test pairs; dashed: chance")
                axes.set_xlabel("recall, 95% intervals")
    return figure


def _recalls(table: Mapping[str, Any]) -> dict[str, Bar]:
    ends = table["ci"]
    rows = {name: (value, ends[name]) for name, value in table["recall_at_1"].items()}
    rows |= {
        name: (table[name]["recall_at_1"], table[name]["ci"]) for name in _BEYOND if name in table
    }
    return {name.replace("_", "-"): bar for name, bar in rows.items()}


def _ends(cell: Mapping[str, float]) -> tuple[float, float]:
    return cell["low"], cell["high"]


def _columns(trained: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is known of each epoch."""
    return list(dict.fromkeys(name for one in trained for name in one["curve"] if name != "epoch"))


def _draw_training(
    row: Sequence[Axes], trained: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """Draw a plot for each column of the curves, with a line for each training."""
    for axes, column in zip(row, columns, strict=True):
        for number, (name, one) in enumerate(trained.items()):
            colour = COLOURS[number % len(COLOURS)]
            epochs, values = one["curve"]["epoch"], one["curve"][column]
            dashes = _DASHES[number % len(_DASHES)]
            axes.plot(epochs, values, color=colour, linestyle=dashes, label=name.replace("_", " "))
            if one["best_epoch"] in epochs:
                kept = values[epochs.index(one["best_epoch"])]
                axes.plot([one["best_epoch"]], [kept], "o", color=colour, markerfacecolor="white")
        tidy(axes)
        axes.set_xlabel("epoch (ring: kept)")
        axes.set_title(column.replace("_", " "))
    look: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": MUTED}
    if len(trained) <= _FEW:
        row[0].legend(**look)
    elif (figure := row[0].get_figure()) is not None:  # inside, many would cover the lines
        names = row[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside right upper", **look)
