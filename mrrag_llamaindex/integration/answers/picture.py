"""One answer as a picture: the query image, the retrieved images, and the probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.images.load import ImageSource, load_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mrrag_llamaindex.integration.answers.ask import AskResult

_STEERED, _PLAIN = "#1f6f8b", "#b8b8b8"


def draw_answer(
    image: ImageSource, result: AskResult, unsteered: AskResult | None = None, *, title: str = ""
) -> Figure:
    """Draw one answer.

    Parameters
    ----------
    image : path, bytes or PIL.Image.Image
        The query image.
    result : AskResult
    unsteered : AskResult, optional
        The same question without IFA, for comparison.
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
    sources = result.source_nodes
    columns = max(3, (len(sources) + 1) // 2)
    question = "\n".join(filter(None, [result.question, title]))
    figure, bars, axes = frame(image, question, columns, 2.15 * columns, 1.5)
    _draw_probabilities(bars, result, unsteered)
    for axis, item in zip(axes, sources, strict=False):
        _draw_source(axis, item)
    return figure


def frame(
    image: ImageSource, title: str, columns: int, width: float, height: float
) -> tuple[Figure, Axes, list[Axes]]:
    """Return a figure with the query image, room for bars below it, and for two rows of pairs.

    Parameters
    ----------
    image : path, bytes or PIL.Image.Image
        The query image.
    title : str
    columns : int
        Of pairs.
    width : float
        Inches of all columns together.
    height : float
        Of the image, where the bars have 1.

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
    figure = Figure(figsize=(3.4 + width, 6.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3.4, width], squeeze=False)[0]
    above, below = left.subplots(2, 1, height_ratios=[height, 1])
    above.imshow(load_image(image, what="query image"))
    above.set(xticks=[], yticks=[])
    above.set_title("query image", fontsize=9)
    axes = list(right.subplots(2, columns, squeeze=False).flatten())
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=12)
    return figure, below, axes


def show_pair(axis: Axes, item: Any) -> None:
    """Draw the image of a retrieved pair, or say that it has none."""
    path = item.node.metadata.get("image_path")
    if path:
        axis.imshow(load_image(path, what=f"image of pair {item.node.node_id!r}"))
    else:
        axis.text(0.5, 0.5, "no image", ha="center", va="center")


def _draw_probabilities(axis: Axes, result: AskResult, unsteered: AskResult | None) -> None:
    bars = [("with IFA", result, _STEERED)]
    if unsteered is not None:
        bars.append(("without", unsteered, _PLAIN))
    width = 0.8 / len(bars)
    for number, (label, item, colour) in enumerate(bars):
        heights = [item.answer.p_yes, item.answer.p_no]
        places = [position + number * width for position in range(2)]
        patches = axis.bar(places, heights, width, label=f"{label}: {item.text!r}", color=colour)
        axis.bar_label(patches, fmt="%.2f", fontsize=8)
    middle = width * (len(bars) - 1) / 2
    axis.set_xticks([middle, 1 + middle], ["p(yes)", "p(no)"])
    axis.set_ylim(0, 1.25)
    axis.set_yticks([0, 0.5, 1])
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="upper right", ncols=2)


def _draw_source(axis: Axes, item: Any) -> None:
    facts = item.node.metadata["mrrag"]
    show_pair(axis, item)
    axis.set_title(
        f"{facts['rank']}. {item.node.node_id}\n"
        f"score {facts['score']:.2f}, $\\lambda$ {facts['lambda']:.2f}",
        fontsize=9,
    )
    terms = (
        f"image-text {facts['image_text']:+.2f}\n"
        f"image-image {facts['image_image']:+.2f}\n"
        f"text-text {facts['text_text']:+.2f}"
    )
    axis.set_xlabel(terms, fontsize=8)
