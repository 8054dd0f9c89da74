"""Calls that wait, made from an event loop without stopping it.

``asyncio.to_thread`` has as many threads as a machine has cores, and a few more: questions that
wait there cannot meet in the queue of a model. The threads here only wait, so there are many.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ParamSpec, TypeVar

from mrrag_llamaindex.generation.scheduling.cancellation import Cancellation

_THREADS = 256

P = ParamSpec("P")
T = TypeVar("T")


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; those of its parent do not come along behind a fork."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="mrrag-waiting")


def _begin(cancellation: Cancellation, function: Callable[[], T]) -> Future[T]:
    context = contextvars.copy_context()
    context.run(cancellation.install)
    return _threads(os.getpid()).submit(context.run, function)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a thread; what it asked of a model is cancelled with the task.

    Parameters
    ----------
    function, *args, **kwargs
        It runs in a copy of the context, as with ``asyncio.to_thread``.
    """
    cancellation = Cancellation()
    future = _begin(cancellation, functools.partial(function, *args, **kwargs))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        cancellation.cancel()
        raise


async def iterate(pieces: Iterator[T]) -> AsyncIterator[T]:
    """Read a blocking iterator in threads; it is closed with the reader.

    Parameters
    ----------
    pieces : iterator
        What it asks of a model is cancelled where the reading ends early.
    """
    cancellation = Cancellation()
    end: Any = object()
    pending: Future[Any] | None = None
    try:
        while True:
            pending = _begin(cancellation, functools.partial(next, pieces, end))
            if (piece := await asyncio.wrap_future(pending)) is end:
                return
            yield piece
    finally:
        cancellation.cancel()
        close = getattr(pieces, "close", None)
        if close is not None:
            await in_thread(_close, pending, close)


def _close(pending: Future[Any] | None, close: Callable[[], object]) -> None:
    """Close a generator, which cannot be done while it runs."""
    if pending is not None:
        wait([pending])
    close()
