"""A vote as a picture: the query image, the shares, and the cases that weighed most."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.images.load import ImageSource, load_image
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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MRRAGError(
            "pictures need matplotlib: pip install 'mrrag-llamaindex[plot]'"
        ) from error
    figure = Figure(figsize=(10.2, 6.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3.4, 6.8], squeeze=False)[0]
    above, below = left.subplots(2, 1, height_ratios=[1.6, 1])
    above.imshow(load_image(image, what="query image"))
    above.set(xticks=[], yticks=[])
    above.set_title("query image", fontsize=9)
    _draw_shares(below, result)
    axes = right.subplots(2, CASES_SHOWN // 2, squeeze=False).flatten()
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, item, row in zip(axes, result.source_nodes, result.sources(), strict=False):
        _draw_case(axis, item, row)
    figure.suptitle("\n".join(filter(None, [result.question, title])), fontsize=12)
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
    path = item.node.metadata.get("image_path")
    if path:
        axis.imshow(load_image(path, what=f"image of pair {row['pair_id']!r}"))
    else:
        axis.text(0.5, 0.5, "no image", ha="center", va="center")
    answer = textwrap.shorten(str(row["answer"]), _WIDTH, placeholder="...")
    axis.set_title(f"{answer}  (weight {row['weight']:.2f})", fontsize=9)
    terms = [f"{name.replace('_', '-')} {row[name]:+.2f}" for name in ALL_TERMS if row.get(name)]
    said = textwrap.shorten(item.node.get_content(), 2 * _WIDTH, placeholder="...")
    axis.set_xlabel("\n".join([*textwrap.wrap(said, _WIDTH), *terms]), fontsize=7)
