"""The blocking work of requests: in threads, bounded in number and time, stopped when unwanted."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Send

from mrrag_llamaindex.generation.scheduling.cancellation import Cancellation
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.service import Cancelled
from mrrag_llamaindex.serving.settings import Settings

T = TypeVar("T")


class _Stop(threading.Event):
    """Tells a work to stop, and takes back what it has asked of the model."""

    def __init__(self) -> None:
        super().__init__()
        self._cancellation = Cancellation()

    def set(self) -> None:
        super().set()
        self._cancellation.cancel()

    def covering(self, work: Callable[[threading.Event], T]) -> Callable[[], T]:
        """Return the work in a context of its own, whose calls of a model this takes back."""
        context = contextvars.copy_context()
        context.run(self._cancellation.install)
        return functools.partial(context.run, work, self)


class EventStream(StreamingResponse):
    """Server-sent events, whose source is closed with the response, however that ends.

    Parameters
    ----------
    events : async generator of str
    """

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send them."""
        async with contextlib.aclosing(self._events):
            await super().stream_response(send)


class Workers:
    """Threads for blocking work, with a bounded queue before them.

    Parameters
    ----------
    settings : Settings
        Its ``running``, ``waiting`` and ``seconds``.

    Attributes
    ----------
    admitted : int
        Requests that run or wait now, those that nobody waits for any more included.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.running + settings.waiting
        self._running = settings.running
        self._seconds = settings.seconds
        self._threads = ThreadPoolExecutor(settings.running, thread_name_prefix="mrrag-request")
        self._lock = threading.Lock()
        self.admitted = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return max(0, self.admitted - self._running)

    def close(self) -> None:
        """Start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, request: Request, work: Callable[[threading.Event], T]) -> T:
        """Return what ``work`` returns, which is told to stop when nobody waits for it any more.

        Parameters
        ----------
        request : fastapi.Request
            Whose client waits; its body must have been read.
        work : callable
            Takes an event that is set when the client has hung up or the time is over.

        Raises
        ------
        ApiError
            429 if too many wait already, 503 if it took too long.
        Cancelled
            If the client has hung up.
        """
        cancelled = _Stop()
        future = self._start(work, cancelled)
        gone = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait(
                (future, gone), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
            if not future.done():
                cancelled.set()
                future.cancel()
        if future in done:
            return future.result()
        raise Cancelled if gone in done else self._too_late()

    async def iterate(
        self, request: Request, work: Callable[[threading.Event], Iterator[T]]
    ) -> AsyncGenerator[T, None]:
        """Yield what ``work`` yields; it is closed when the reader is.

        Raises
        ------
        ApiError
            As `run`; whatever else the work raises.
        """
        cancelled = _Stop()
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[bool, Any]] = asyncio.Queue()

        def put(ended: bool, item: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(arrived.put_nowait, (ended, item))

        def read(cancelled: threading.Event) -> None:
            try:
                items = work(cancelled)
                try:
                    for item in items:
                        if cancelled.is_set():
                            break
                        put(False, item)
                finally:
                    if isinstance(items, Generator):
                        items.close()
                put(True, None)
            except BaseException as error:
                put(True, error)

        deadline = loop.time() + self._seconds
        future = self._start(read, cancelled)
        try:
            while True:
                try:
                    ended, item = await asyncio.wait_for(arrived.get(), deadline - loop.time())
                except asyncio.TimeoutError:
                    raise self._too_late() from None
                if not ended:
                    yield item
                elif item is None:
                    return
                else:
                    raise item
        finally:
            cancelled.set()
            future.cancel()

    def _start(self, work: Callable[[threading.Event], T], cancelled: _Stop) -> asyncio.Future[T]:
        with self._lock:
            if self.admitted >= self._most:
                raise ApiError(
                    429,
                    "too_many_requests",
                    f"{self.admitted} requests run or wait already; try again later",
                    retry_after=2,
                )
            self.admitted += 1
        job = self._threads.submit(cancelled.covering(work))
        job.add_done_callback(self._ended)
        future = asyncio.wrap_future(job)
        future.add_done_callback(_read)
        return future

    def _ended(self, _: Any) -> None:
        with self._lock:
            self.admitted -= 1

    def _too_late(self) -> ApiError:
        return ApiError(
            503,
            "timeout",
            f"the answer was not ready after {self._seconds:g} seconds; try again later",
            retry_after=5,
        )


def _read(future: asyncio.Future[Any]) -> None:
    """Read a result that nobody may wait for: asyncio would complain that it never was."""
    if not future.cancelled():
        future.exception()


async def _gone(request: Request) -> None:
    """Wait until the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
