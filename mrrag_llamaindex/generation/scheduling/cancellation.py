"""Taking back what a call asked for, from another thread."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from typing import Any

_CURRENT: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar(
    "mrrag_cancellation", default=None
)


class Cancellation:
    """Cancels whatever was asked of a model in the contexts that it is installed in.

    Examples
    --------
    >>> cancellation, future = Cancellation(), Future()
    >>> cancellation.covers([future])
    >>> cancellation.cancel()
    >>> future.cancelled()
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: list[Future[Any]] = []
        self._cancelled = False

    def install(self) -> None:
        """Cover what the current context asks for from now on."""
        _CURRENT.set(self)

    def covers(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel these, too, now or later.

        Raises
        ------
        CancelledError
            If the call was taken back already.
        """
        futures = list(futures)
        with self._lock:
            self._futures += futures
            late = self._cancelled
        if late:
            self.cancel()
            raise CancelledError

    def cancel(self) -> None:
        """Cancel whatever is not done."""
        with self._lock:
            self._cancelled = True
            futures, self._futures = self._futures, []
        for future in futures:
            future.cancel()


def cover(futures: Iterable[Future[Any]]) -> None:
    """Let these be cancelled by the `Cancellation` of the current context, where it has one.

    Raises
    ------
    CancelledError
        If it was cancelled already.
    """
    cancellation = _CURRENT.get()
    if cancellation is not None:
        cancellation.covers(futures)
