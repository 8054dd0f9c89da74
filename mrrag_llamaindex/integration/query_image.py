"""The query image of a call that only takes a string: chat engines, agents, tools."""

from __future__ import annotations

import asyncio
import inspect
import sys
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import AsyncGeneratorType, FrameType
from typing import TYPE_CHECKING, Any, Literal

from mrrag_llamaindex.errors import EvidenceError, ImageError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.images import QuestionImages, image_source, read_image

if TYPE_CHECKING:
    from llama_index.core import QueryBundle

MissingImage = Literal["error", "ignore"]

_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR

_BIND = (
    "bind the image to what asks: QueryBundle(question, image_path=...), or an engine of its own, "
    "index.as_query_engine(image=...) or index.as_chat_engine(image=...)"
)


@dataclass(eq=False)
class _Block:
    """One entry into a `query_image` block.

    Attributes
    ----------
    image : QueryImage
    frame : FrameType
        The function, coroutine or generator whose ``with`` statement it is.
    outer : _Block or None
        What the context held before.
    generator : weakref or None
        Of the asynchronous generator that `frame` belongs to, if it does.
    ended : bool
    """

    image: QueryImage
    frame: FrameType
    outer: _Block | None
    generator: weakref.ref[AsyncGeneratorType[Any, Any]] | None
    ended: bool = field(default=False)

    @property
    def executing(self) -> bool:
        """Whether the block's code is what runs or waits now, not a generator left at a yield."""
        flags = self.frame.f_code.co_flags
        if flags & inspect.CO_ASYNC_GENERATOR:
            generator = None if self.generator is None else self.generator()
            return generator is not None and generator.ag_running
        if flags & inspect.CO_GENERATOR:
            return self.frame.f_back is not None  # a suspended generator has no caller
        return True


_INNERMOST: ContextVar[_Block | None] = ContextVar("mrrag_query_image", default=None)
_OPEN: dict[FrameType, list[_Block]] = {}
"""Blocks that are open, by the frame of their ``with`` statement."""


class query_image:  # noqa: N801 (used as a statement, as contextlib's suppress is)
    """Ask about ``image`` in every retrieval inside the block.

    The image is read once, when the block is entered, and travels on in each question's ticket: a
    stream made inside the block may be read outside it, and a file that is replaced afterwards
    does not matter.

    Parameters
    ----------
    image : path, URL of a file, data URL, bytes, PIL.Image.Image, ImageDocument, ImageBlock
        Or a `QueryImage`, which carries a window or frame with it; or a list of these: the images
        of one study of one patient, as frontal and lateral, in order.

    Raises
    ------
    ImageError
        On entering, if the image cannot be read.

    Notes
    -----
    A block belongs to the code inside it and not to the thread or task: in a generator it counts
    while that generator runs, whoever advances it and in whichever context, and not while it waits
    at a ``yield``. Tasks and threads started inside, with a copy of the context, ask about it until
    the block ends. Where the image cannot be known, a retrieval raises `EvidenceError`.

    Examples
    --------
    >>> with query_image("cxr.png"):                      # doctest: +SKIP
    ...     chat_engine.chat("Is there a pleural effusion?")
    """

    def __init__(self, image: QuestionImages) -> None:
        self._source = image
        self._blocks: list[_Block] = []

    def __enter__(self) -> None:
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") == "contextlib" and frame.f_back is not None:
            frame = frame.f_back  # entered by an ExitStack: the block is its user's
        image = read_image(self._source)
        if image is None:
            raise ImageError("query_image(None): give the image that the questions are about")
        block = _Block(image, frame, _INNERMOST.get(), _asynchronous_generator(frame))
        _OPEN.setdefault(frame, []).append(block)
        _INNERMOST.set(block)
        self._blocks.append(block)

    def __exit__(self, *_: object) -> None:
        block = self._blocks.pop()
        block.ended = True
        blocks = _OPEN[block.frame]
        blocks.remove(block)
        if not blocks:
            del _OPEN[block.frame]
        # A generator may be closed in another context than it was opened in, or after others.
        innermost = _INNERMOST.get()
        while innermost is not None and innermost.ended:
            innermost = innermost.outer
        _INNERMOST.set(innermost)


def _asynchronous_generator(
    frame: FrameType,
) -> weakref.ref[AsyncGeneratorType[Any, Any]] | None:
    """Find the generator that a frame belongs to, among those that its event loop runs."""
    if not frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
        return None
    try:
        known = list(getattr(asyncio.get_running_loop(), "_asyncgens", ()))
    except RuntimeError:
        return None
    return next((weakref.ref(item) for item in known if item.ag_frame is frame), None)


def current_query_image() -> QueryImage | None:
    """Return the image of the `query_image` block around the caller, None without one.

    The blocks on the call stack decide, up to where a task begins; from there on the context,
    which tasks and threads copy when they are started.

    Raises
    ------
    EvidenceError
        If the context names a block that has ended, or a generator's that is left at a ``yield``.
    """
    driver = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and driver is None:
        if frame in _OPEN:
            return _OPEN[frame][-1].image
        driver, frame = _driver(frame), frame.f_back
    block = _INNERMOST.get()
    if block is None:
        # A generator that is advanced in ever new contexts, and runs an event loop of its own.
        while driver is not None and driver not in _OPEN:
            driver = driver.f_back
        return None if driver is None else _OPEN[driver][-1].image
    if block.ended:
        raise EvidenceError(
            "this work was started inside a query_image(...) block that has ended since, so it is "
            f"not known which image the question is about; {_BIND}"
        )
    if not block.executing:
        raise EvidenceError(
            "the enclosing query_image(...) block belongs to a generator that waits at a yield, so "
            f"this question is another's, and it is not known which image it is about; {_BIND}"
        )
    return block.image


def enclosing_image(bound: QueryImage | None) -> QueryImage | None:
    """Return the image that a step is bound to, or without one that of the block around it.

    Raises
    ------
    InputError
        If there are both and they differ: either could be another patient's.
    EvidenceError
        If there is no bound image, as `current_query_image`.
    """
    if bound is None:
        return current_query_image()
    try:
        block = current_query_image()
    except EvidenceError:
        return bound  # what is bound is known, wherever the block is
    if block is not None and block != bound:
        raise InputError(
            "this engine or retriever is bound to an image, and is asked inside a query_image(...) "
            "block with another one: ask outside the block, or build it without image="
        )
    return bound


def _driver(frame: FrameType) -> FrameType | None:
    """Return the caller of a task's outermost coroutine: it drives other questions, too."""
    outer = frame.f_back
    if outer is None or not frame.f_code.co_flags & _COROUTINE:
        return None
    return None if outer.f_code.co_flags & _COROUTINE else outer


def read_query_image(
    query_bundle: QueryBundle,
    on_missing: MissingImage,
    known: QueryImage | None = None,
    enclosing: QueryImage | None = None,
) -> QueryImage | None:
    """Read the image of a question, once.

    Parameters
    ----------
    query_bundle : QueryBundle
        Its ``image_path`` is taken, else ``enclosing``.
    on_missing : {"error", "ignore"}
        What to do without an image.
    known : QueryImage, optional
        What an earlier step of the same question has read; its file is not read again.
    enclosing : QueryImage, optional
        What `current_query_image` returned, or the image that an engine is bound to.

    Raises
    ------
    InputError
        If there is no image and that is an error, or if there are two different ones.
    ImageError
        If the image cannot be read.
    """
    images = [] if enclosing is None else [enclosing]
    if query_bundle.image_path is not None:
        images.append(
            _read(
                query_bundle.image_path,
                [image for image in (known, enclosing) if image is not None],
            )
        )
    if len(set(images)) > 1:
        raise InputError(
            "this question has two different images: QueryBundle.image_path and an enclosing "
            "query_image(...) block, or the image that the engine is bound to; give one of them"
        )
    if not images and on_missing == "error":
        raise InputError(
            "the question has no image. If you gave QueryBundle(question, image_path=...): engines "
            "that rewrite the question (HyDE, sub-questions, multi-step, retry, fusion) pass on "
            'only its text; ask inside "with query_image(...)". If you did that: a thread that was '
            f"started without a copy of the context does not see the block; {_BIND}. To rank by "
            'text alone, set on_missing_image="ignore"'
        )
    return images[0] if images else None


def _read(source: str, known: Sequence[QueryImage | None]) -> QueryImage:
    plain = image_source(source)
    same = (image for image in known if image and image.path and image.path == plain)
    return next(same, None) or QueryImage.read(plain)
