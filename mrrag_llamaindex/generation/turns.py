"""Who uses a model now: one at a time, in the order of asking."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any


class Turns:
    """A lock that is given in the order in which it was asked for.

    ``threading.Lock`` makes no such promise: who gives it back and asks again at once, as a queue
    of batches does, would keep the others out for as long as there is work.

    Examples
    --------
    >>> turns = Turns()
    >>> with turns.take():
    ...     "mine"
    'mine'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Wait for one's turn, and have it for the block."""
        mine = threading.Event()
        try:
            with self._lock:
                self._line.append(mine)
                if len(self._line) == 1:
                    mine.set()
            mine.wait()
            yield
        finally:
            with self._lock:
                if mine in self._line:  # not if it was interrupted before
                    first = self._line[0] is mine
                    self._line.remove(mine)
                    if first and self._line:
                        self._line[0].set()


def turns_at(model: Any) -> Turns:
    """Return the turns at a model: the same for all that use it, since it may keep a state."""
    with _LOCK:
        return _TURNS.setdefault(model, Turns())


_LOCK = threading.Lock()
_TURNS: weakref.WeakKeyDictionary[Any, Turns] = weakref.WeakKeyDictionary()
