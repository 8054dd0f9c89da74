"""Towers whose concurrent calls meet: what threads embed at the same moment is one batch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from mrrag_llamaindex.files.forks import ForkGuard

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from mrrag_llamaindex.towers.protocol import DualTower

ItemT = TypeVar("ItemT")

Rows: TypeAlias = "Callable[[Sequence[ItemT]], NDArray[np.float32]]"

_BATCH = 32  # inputs of one pass, as in `DualTower.embed_images`


class Gathering(Generic[ItemT]):
    """Calls of one function from several threads, gathered while it is busy.

    Nobody waits for company: a call that finds the function free makes it in its own thread. Those
    that come meanwhile wait, and one of them makes the next call for all.

    Where it fails for several callers, it is called again for each alone, so that only the culprit
    fails.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Call[ItemT]] = []
        self._busy = False
        self._process = ForkGuard()

    def __call__(self, function: Rows[ItemT], items: Sequence[ItemT]) -> NDArray[np.float32]:
        """Return ``function(items)``, one row per item; ``function`` is the same in every call."""
        if self._process.behind_fork:  # whoever was busy did not come along
            return function(items)
        mine = _Call(items)
        with self._lock:
            self._waiting.append(mine)
            if not self._busy:
                self._busy = True
                mine.leads.set_result(True)
        try:
            if not mine.leads.result():
                return mine.rows.result()
            self._run(function, self._next())
        except BaseException:
            self._leave(mine)
            raise
        self._hand_on()
        return mine.rows.result()

    def _next(self) -> list[_Call[ItemT]]:
        """Take the oldest calls, the leader's own first."""
        with self._lock:
            count = size = 0
            for call in self._waiting:
                size += len(call.items)
                if count and size > _BATCH:
                    break
                count += 1
            calls, self._waiting = self._waiting[:count], self._waiting[count:]
        return calls

    def _run(self, function: Rows[ItemT], calls: Sequence[_Call[ItemT]]) -> None:
        try:
            rows = function([item for call in calls for item in call.items])
            stops = np.cumsum([len(call.items) for call in calls])
            for call, part in zip(calls, np.split(rows, stops[:-1]), strict=True):
                call.rows.set_result(part)
        except Exception as error:
            if len(calls) == 1:
                calls[0].rows.set_exception(error)
            else:
                for call in calls:
                    self._run(function, [call])
        finally:
            with self._lock:  # an interrupt of the leader is none of the others
                self._waiting = [
                    *(call for call in calls[1:] if not call.rows.done()),
                    *self._waiting,
                ]
            for call in calls[1:]:
                if call.rows.done():
                    call.leads.set_result(False)

    def _leave(self, mine: _Call[ItemT]) -> None:
        with self._lock:
            self._waiting = [call for call in self._waiting if call is not mine]
            leads = mine.leads.done() and mine.leads.result()
        if leads:
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads.set_result(True)


class _Call(Generic[ItemT]):
    """One caller's items: whether it makes the call for all, and its rows."""

    def __init__(self, items: Sequence[ItemT]) -> None:
        self.items = items
        self.leads: Future[bool] = Future()
        self.rows: Future[NDArray[np.float32]] = Future()


class GatheredTowers:
    """The two functions of a `DualTower`, each gathering the calls of several threads.

    Vectors equal those of single calls to rounding. Callers meet if they use the same towers.

    Parameters
    ----------
    towers : DualTower
    """

    def __init__(self, towers: DualTower) -> None:
        with _LOCK:
            try:
                images, texts = _GATHERED.setdefault(towers, (Gathering(), Gathering()))
            except TypeError:  # towers of one's own that are no key, or cannot be referred to
                images, texts = Gathering(), Gathering()
        self._towers, self._images, self._texts = towers, images, texts

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """See `DualTower.embed_images`."""
        return self._images(self._towers.embed_images, images)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `DualTower.embed_texts`."""
        return self._texts(self._towers.embed_texts, texts)


_LOCK = threading.Lock()
_GATHERED: weakref.WeakKeyDictionary[DualTower, tuple[Gathering[Any], Gathering[Any]]] = (
    weakref.WeakKeyDictionary()
)
