"""One engine, the event loop that it lives in, and the line before it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.generation.vllm.door import Door
from mrrag_llamaindex.generation.vllm.line import Line

T = TypeVar("T")

_CLOSING_SECONDS = 20.0


class Connection:
    """A door in a thread of its own, which ends with the last engine over it.

    Parameters
    ----------
    door : Door
    let_go : callable, optional
        Called at the end.

    Attributes
    ----------
    door : Door
    line : Line
    window : int
        Tokens that the engine takes, once it is open.

    Raises
    ------
    ModelError
        If the engine cannot be started or reached.
    """

    def __init__(self, door: Door, let_go: Callable[[], object] | None = None) -> None:
        self.door = door
        self.line = Line()
        self._process = ForkGuard()
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(self._loop,), name="mrrag-vllm", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _close, self._loop, thread, door, let_go, self._process)
        self._end.atexit = False
        _at_exit(self)
        try:
            self.window = self.wait_for(door.open())
        except BaseException:
            self.close()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the engine's loop."""
        self._process.check("this model was", ModelError)
        if not self._end.alive:
            work.close()
            raise ModelError(f"{self.door.name} was closed: make another MRRAGLLaVA")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and wait for what it returns."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the engine's loop."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(function, *args)

    def close(self) -> None:
        """Give up the engine; requests at work end with an error."""
        self._end()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _close(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    door: Door,
    let_go: Callable[[], object] | None,
    process: ForkGuard,
) -> None:
    if process.behind_fork:  # the loop runs in the parent
        return
    if threading.current_thread() is thread:  # the garbage collector ran in it
        loop.call_soon(loop.stop)
    else:
        with contextlib.suppress(Exception, CancelledError):
            asyncio.run_coroutine_threadsafe(_end(door), loop).result(_CLOSING_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSING_SECONDS)
    if let_go is not None:
        let_go()


async def _end(door: Door) -> None:
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    requests = [task for task in tasks if task.get_name().startswith("mrrag")]
    for task in requests:
        task.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await door.close()


_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()
_LOCK = threading.Lock()


def _at_exit(connection: Connection) -> None:
    with _LOCK:
        if not _OPEN:
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _OPEN.add(connection)


def _close_all() -> None:
    for connection in list(_OPEN):
        connection.close()
