"""One answer as a picture: the query image, the probabilities, and the retrieved pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.plots.answer import CARDS, draw_asked

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore
    from matplotlib.figure import Figure
    from PIL.Image import Image


class Result(Protocol):
    """An answer and its evidence: an `AskResult` or a `VoteResult`."""

    @property
    def source_nodes(self) -> list[NodeWithScore]:
        """The evidence, best first."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        ...


def draw_answer(
    image: QuestionImages, result: Result, unsteered: Result | None = None, *, title: str = ""
) -> Figure:
    """Draw one answer of `ask` or `ask_by_vote`.

    Parameters
    ----------
    image : path, bytes, PIL.Image.Image, QueryImage, or a list of these: one study
    result : AskResult or VoteResult
        The first pieces of its evidence are shown: image, first words, scores and weight.
    unsteered : AskResult, optional
        The same question without IFA, for comparison.
    title : str
        Below the question.

    Returns
    -------
    matplotlib.figure.Figure
        Not shown and not registered with pyplot; `mrrag_llamaindex.plots.save` writes it.

    Raises
    ------
    ImageError
        If an image of the question cannot be read. A pair whose image cannot be read says so.
    MRRAGError
        If matplotlib is not installed.
    """
    study = read_image(image)
    assert study is not None
    shown = result.source_nodes[:CARDS]
    return draw_asked(
        study.pictures,
        result.as_dict(),
        _thumbnails(shown),
        {item.node.node_id: item.node.get_content() for item in shown},
        None if unsteered is None else unsteered.as_dict(),
        title=title,
    )


def _thumbnails(items: Sequence[NodeWithScore]) -> dict[str, Image | str]:
    thumbnails: dict[str, Image | str] = {}
    for item in items:
        name = item.node.node_id
        if path := item.node.metadata.get("image_path"):
            try:
                thumbnails[name] = load_image(path, what=f"image of pair {name!r}")
            except ImageError:
                thumbnails[name] = "image cannot\nbe read"
    return thumbnails
