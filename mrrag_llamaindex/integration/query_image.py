"""The query image of a call that only takes a string: chat engines, agents, tools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.load import ImageSource, image_digest

if TYPE_CHECKING:
    from llama_index.core import QueryBundle

_IMAGE: ContextVar[ImageSource | None] = ContextVar("mrrag_query_image", default=None)


@contextmanager
def query_image(image: ImageSource) -> Iterator[None]:
    """Ask about ``image`` in every retrieval inside the block.

    The image is read by our retriever or postprocessor at the moment of retrieval and travels
    on in the query's ticket, so a stream made inside the block may be read outside it.

    Parameters
    ----------
    image : path, bytes or PIL.Image.Image

    Examples
    --------
    >>> with query_image("cxr.png"):                      # doctest: +SKIP
    ...     chat_engine.chat("Is there a pleural effusion?")
    """
    token = _IMAGE.set(image)
    try:
        yield
    finally:
        _IMAGE.reset(token)


def image_of(query_bundle: QueryBundle) -> ImageSource | None:
    """Return the query image: the bundle's ``image_path``, else that of `query_image`, else None.

    Raises
    ------
    InputError
        If both are given and are different images.
    """
    outer = _IMAGE.get()
    own = query_bundle.image_path
    if own is None or outer is None:
        return own if own is not None else outer
    if image_digest(own) != image_digest(outer):
        raise InputError(
            "this question has two different images: QueryBundle.image_path and an enclosing "
            "query_image(...) block; give one of them"
        )
    return own
