"""The query image of a call that only takes a string: chat engines, agents, tools."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage

if TYPE_CHECKING:
    from llama_index.core import QueryBundle

    from mrrag_llamaindex.images.load import ImageSource

MissingImage = Literal["error", "ignore"]

_SOURCE: ContextVar[ImageSource | QueryImage | None] = ContextVar("mrrag_query_image", default=None)


@contextmanager
def query_image(image: ImageSource | QueryImage) -> Iterator[None]:
    """Ask about ``image`` in every retrieval inside the block.

    The image is read once per question, at retrieval, and travels on in the question's ticket: a
    stream made inside the block may be read outside it, and a file that is replaced afterwards
    does not matter.

    Parameters
    ----------
    image : path, bytes, PIL.Image.Image or QueryImage
        A `QueryImage` carries a window or frame with it.

    Examples
    --------
    >>> with query_image("cxr.png"):                      # doctest: +SKIP
    ...     chat_engine.chat("Is there a pleural effusion?")
    """
    token = _SOURCE.set(image)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def read_query_image(
    query_bundle: QueryBundle, on_missing: MissingImage, known: Iterable[QueryImage] = ()
) -> QueryImage | None:
    """Read the image of a question, once.

    Parameters
    ----------
    query_bundle : QueryBundle
        Its ``image_path`` is taken, else the image of an enclosing `query_image` block.
    on_missing : {"error", "ignore"}
        What to do without an image.
    known : iterable of QueryImage
        Images that an earlier step of the same question has read; their files are not read again.

    Raises
    ------
    InputError
        If there is no image and that is an error, or if there are two different ones.
    ImageError
        If the image cannot be read.
    EvidenceError
        If ``known`` holds two states of one file.
    """
    images: list[QueryImage] = []
    for source in (query_bundle.image_path, _SOURCE.get()):
        if source is not None:
            images.append(_read(source, [*known, *images]))
    if len(set(images)) > 1:
        raise InputError(
            "this question has two different images: QueryBundle.image_path and an enclosing "
            "query_image(...) block; give one of them"
        )
    if not images and on_missing == "error":
        raise InputError(
            "the question has no image: pass QueryBundle(question, image_path=...) or ask "
            'inside "with query_image(...)"; to rank by text alone, set on_missing_image="ignore"'
        )
    return images[0] if images else None


def _read(source: ImageSource | QueryImage, known: Iterable[QueryImage]) -> QueryImage:
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    states = {image for image in known if path is not None and image.path == path}
    if len(states) > 1:
        raise EvidenceError(
            "the file of the query image was replaced while its documents were retrieved, so they "
            "belong to two different images; ask again"
        )
    return states.pop() if states else QueryImage.read(source)
