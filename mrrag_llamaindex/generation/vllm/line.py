"""Who is let into an engine: so many at once, the others wait in the order of asking."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from mrrag_llamaindex.errors import BusyError
from mrrag_llamaindex.generation.scheduling.job import Admission
from mrrag_llamaindex.generation.scheduling.statistics import Counters, SchedulerStats


class Line:
    """Belongs to one event loop.

    vLLM batches by itself; this keeps the promises of `max_queue` and `queue_timeout`, which it
    does not know.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self._running = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def stats(self) -> SchedulerStats:
        """What was counted so far. Each request counts as a batch of one."""
        return self.counters.read(len(self._waiting), self._running)

    @contextlib.asynccontextmanager
    async def place(self, size: int, admission: Admission) -> AsyncIterator[None]:
        """Wait until fewer than ``size`` requests are at work, and be one of them.

        Raises
        ------
        BusyError
            If the line is full, or it took too long.
        """
        began = time.monotonic()
        await self._enter(size, admission, began)
        self.counters.batch([time.monotonic() - began])
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, size: int, admission: Admission, began: float) -> None:
        if self._running < size and not self._waiting:
            self._running += 1
            return
        waiting = len(self._waiting)
        if admission.max_queue is not None and waiting >= admission.max_queue:
            self.counters.add("refused")
            raise BusyError.full(waiting)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await asyncio.wait_for(asyncio.shield(turn), admission.queue_timeout)
        except BaseException as error:
            if turn.done():  # it was let in at the same moment
                self._leave()
            else:
                self._waiting.remove((turn, size))
            turn.cancel()
            if isinstance(error, asyncio.TimeoutError):
                self.counters.add("timed_out")
                raise BusyError.late(time.monotonic() - began) from None
            raise

    def _leave(self) -> None:
        self._running -= 1
        while self._waiting and self._running < self._waiting[0][1]:
            turn, _ = self._waiting.popleft()
            self._running += 1
            turn.set_result(None)
