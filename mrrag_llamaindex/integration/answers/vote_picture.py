"""A vote as a picture: the query image, the shares, and the cases that weighed most."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.images.load import ImageSource
from mrrag_llamaindex.integration.answers.picture import frame, show_pair
from mrrag_llamaindex.mcr.score import ALL_TERMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mrrag_llamaindex.integration.answers.vote import VoteResult

CASES_SHOWN = 6
_SHARES_SHOWN = 4
_WIDTH = 34


def draw_vote(image: ImageSource, result: VoteResult, *, title: str = "") -> Figure:
    """Draw what was voted.

    Parameters
    ----------
    image : path, bytes or PIL.Image.Image
        The query image.
    result : VoteResult
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot; save it with ``figure.savefig``.

    Raises
    ------
    MRRAGError
        If matplotlib is not installed.
    """
    question = "\n".join(filter(None, [result.question, title]))
    figure, bars, axes = frame(image, question, CASES_SHOWN // 2, 6.8, 1.6)
    _draw_shares(bars, result)
    for axis, item, row in zip(axes, result.source_nodes, result.sources(), strict=False):
        _draw_case(axis, item, row)
    return figure


def _draw_shares(axis: Axes, result: VoteResult) -> None:
    shares = list(result.ballot.shares.items())[:_SHARES_SHOWN]
    names = [textwrap.shorten(name, _WIDTH // 2, placeholder="...") for name, _ in shares]
    patches = axis.barh(range(len(shares)), [share for _, share in shares], color="#1f6f8b")
    axis.bar_label(patches, fmt="%.2f", fontsize=8, padding=2)
    axis.set_yticks(range(len(shares)), names, fontsize=8)
    axis.set_xlim(0, 1.15)
    axis.set_xticks([0, 0.5, 1])
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"vote of {len(result.source_nodes)} pairs", fontsize=9)


def _draw_case(axis: Axes, item: Any, row: dict[str, Any]) -> None:
    show_pair(axis, item)
    answer = textwrap.shorten(str(row["answer"]), _WIDTH, placeholder="...")
    axis.set_title(f"{answer}  (weight {row['weight']:.2f})", fontsize=9)
    terms = [f"{name.replace('_', '-')} {row[name]:+.2f}" for name in ALL_TERMS if row.get(name)]
    said = textwrap.shorten(item.node.get_content(), 2 * _WIDTH, placeholder="...")
    axis.set_xlabel("\n".join([*textwrap.wrap(said, _WIDTH), *terms]), fontsize=7)
