"""One answer: the image, the probabilities, and each piece of evidence with what it weighed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.plots.style import (
    INK,
    MAIN,
    MUTED,
    SMALL,
    TITLE,
    drawing,
    shown,
    tidy,
)
from mrrag_llamaindex.plots.words import signed_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

CARDS = 6
"""Pieces of evidence that are shown, at most."""

_SHARES = 4
_LEFT, _CARD, _ROW = 3.0, 3.3, 1.75  # inches
_TEXT = 37  # characters of a card's line


def draw_asked(
    images: Sequence[Image],
    answer: Mapping[str, Any],
    thumbnails: Mapping[str, Image | str],
    reports: Mapping[str, str],
    unsteered: Mapping[str, Any] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw one answer of a model or of a vote.

    Parameters
    ----------
    images : sequence of PIL.Image.Image
        What was asked about, one at least.
    answer : mapping
        What ``mrrag ask --json`` prints: `AskResult.as_dict`, `VoteResult.as_dict`, or a server's.
    thumbnails : mapping
        From pair id to image, or to the words that stand in its place.
    reports : mapping
        From pair id to text, of which the first words are shown.
    unsteered : mapping, optional
        The same question without IFA, for comparison.
    title : str
        Below the question.

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    sources = answer["sources"][:CARDS]
    columns = 1 if len(sources) == 1 else 2
    rows = max(2, -(-len(sources) // columns))
    size = (_LEFT + columns * _CARD, 0.75 + rows * _ROW)
    # Of a long question the beginning: what it is about stands in the command that asked.
    question = shown(answer["question"], round(TITLE * size[0]))
    with drawing(*size, question) as figure:
        widths = [_LEFT, columns * _CARD]
        left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
        if title:
            left.suptitle(
                textwrap.fill(shown(title), 44), x=0.03, ha="left", fontsize=SMALL, color=MUTED
            )
        parts = left.subplots(len(images) + 1, 1, height_ratios=[2] * len(images) + [1])
        for axes, image in zip(parts, images, strict=False):
            _show(axes, image)
        _draw_probabilities(parts[-1], answer, unsteered)
        count = len(answer["sources"])
        about = f"the first {CARDS} of {count} pairs" if count > CARDS else "retrieved pairs"
        right.suptitle(f"evidence: {about}", x=0.02, ha="left", fontsize=SMALL, color=MUTED)
        _draw_cards(right, (rows, columns), sources, thumbnails, reports)
    return figure


def _draw_probabilities(
    axes: Axes, answer: Mapping[str, Any], unsteered: Mapping[str, Any] | None
) -> None:
    drawn = [(answer, MAIN)] if unsteered is None else [(answer, MAIN), (unsteered, "#B8B8B8")]
    names = list(_shares(answer))
    height = 0.72 / len(drawn)
    for number, (one, colour) in enumerate(drawn):
        values = [_shares(one).get(name, 0.0) for name in names]
        places = [place + number * height for place in range(len(names))]
        bars = axes.barh(places, values, height, color=colour)
        axes.bar_label(bars, fmt="%.2f", fontsize=SMALL, padding=3)
    middle = height * (len(drawn) - 1) / 2
    ticks = [place + middle for place in range(len(names))]
    axes.set_yticks(ticks, [shown(name, 18) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18)
    axes.set_xticks([0, 0.5, 1])
    said = shown(f"Answer: {answer['answer']}", 40)
    if unsteered is not None:
        said += shown(f"; without IFA (grey): {unsteered['answer']}", 32)
    axes.set_title(said, fontweight="bold")
    tidy(axes, "x")
    axes.tick_params(axis="y", length=0)


def _shares(answer: Mapping[str, Any]) -> dict[str, float]:
    shares = answer.get("shares") or {"p(yes)": answer["p_yes"], "p(no)": answer["p_no"]}
    return dict(list(shares.items())[:_SHARES])


def _draw_cards(
    figure: SubFigure,
    shape: tuple[int, int],
    sources: Sequence[Mapping[str, Any]],
    thumbnails: Mapping[str, Image | str],
    reports: Mapping[str, str],
) -> None:
    rows, columns = shape
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.5] * columns)
    for axes in grid.flat:
        axes.set_axis_off()
    # Each card is two plots side by side; cards are read line by line.
    pairs = grid.reshape(rows * columns, 2)
    for number, (source, (image, text)) in enumerate(zip(sources, pairs, strict=False)):
        _show(image, thumbnails.get(source["pair_id"], "no image"))
        _write(text, number + 1, source, reports.get(source["pair_id"], ""))


def _show(axes: Axes, image: Image | str) -> None:
    axes.set_axis_off()
    if isinstance(image, str):
        axes.text(0.5, 0.5, image, ha="center", va="center", color=MUTED, fontsize=SMALL)
    else:
        axes.imshow(image)
        axes.set_anchor("N")


def _write(axes: Axes, number: int, source: Mapping[str, Any], report: str) -> None:
    """Write a card: which pair, what it weighed as a bar and in numbers, and what it says."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    weight = source["weight"] if "weight" in source else source["lambda"]
    axes.barh([0.83], [1], 0.05, left=0, color="#EEEEEE")
    axes.barh([0.83], [weight], 0.05, left=0, color=MAIN)
    name = shown(f"{number}. {source['pair_id']}", _TEXT - 6)
    axes.text(0, 0.92, name, fontweight="bold", fontsize=SMALL, va="bottom")
    size = SMALL - 1.2
    lines = textwrap.wrap(_weighed(source, weight), _TEXT)
    lines += textwrap.wrap(_terms(source), _TEXT, break_on_hyphens=False)
    axes.text(0, 0.76, "\n".join(lines), fontsize=size, va="top", color=MUTED)
    said = textwrap.wrap(shown(report), _TEXT, max_lines=3, placeholder=" ...")
    axes.annotate(
        "\n".join(said),
        (0, 0.76),
        xytext=(0, -1.25 * size * len(lines) - 4),  # below those, in points
        textcoords="offset points",
        fontsize=size,
        va="top",
        color=INK,
    )


def _weighed(source: Mapping[str, Any], weight: float) -> str:
    """Return in a line what a pair weighed, and what came of it."""
    voted = "weight" in source
    words = [f"{'weight' if voted else 'λ'} {weight:.2f}"]
    if voted:
        words.append(shown(f"answers {source['answer']}", 22))
    if source.get("probability") is not None:
        words.append(f"helps with probability {source['probability']:.2f}")
    if influence := source.get("influence"):
        words.append(f"moved {signed_points(influence['points'])} points")
    if not source.get("read", True):
        words.append("not read")
    return ", ".join(words)


def _terms(source: Mapping[str, Any]) -> str:
    # No break inside a term: its sign and number stay with its name.
    terms = [
        f"{name.replace('_', '-')}\N{NO-BREAK SPACE}{source[name]:+.2f}"
        for name in ALL_TERMS
        if source.get(name)
    ]
    return f"score {source['score']:.2f}: {', '.join(terms)}"
