"""What a scheduler counts, for whoever watches over it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass
class Histogram:
    """How many values were at most each of some bounds.

    Attributes
    ----------
    bounds : tuple of float
        Ascending upper bounds, inclusive.
    counts : list of int
        Values of each bound's own bin, not cumulated; the last is of those above all bounds.
    total : float
        Sum of all values.

    Examples
    --------
    >>> rows = Histogram((1, 4))
    >>> for value in (1, 3, 4, 9):
    ...     rows.add(value)
    >>> rows.counts, rows.count, rows.total
    ([1, 2, 1], 4, 17.0)
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """Return another one with the same counts."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(frozen=True)
class SchedulerStats:
    """Counts of one model since it was loaded, and what it does at the moment.

    Attributes
    ----------
    waiting : int
        Requests in the queue now.
    running : int
        Requests in the batch that runs now.
    answered, failed, cancelled : int
        Requests that ended so, whether they waited or ran.
    refused : int
        Requests that found the queue full.
    timed_out : int
        Requests that waited longer than their ``queue_timeout``.
    rows : Histogram
        Requests of each batch that ran; its ``count`` is the number of batches.
    queue_seconds : Histogram
        From joining the queue to the start of the batch, per request.
    run_seconds : Histogram
        From the start of the batch to the end of the answer, per request that was answered.
    """

    waiting: int
    running: int
    answered: int
    failed: int
    cancelled: int
    refused: int
    timed_out: int
    rows: Histogram
    queue_seconds: Histogram
    run_seconds: Histogram


class Counters:
    """The counts behind `SchedulerStats`; may be changed from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a stream that is garbage is counted at any moment
        self._counts = dict.fromkeys(("answered", "failed", "cancelled", "refused", "timed_out"), 0)
        self._rows = Histogram(_ROWS)
        self._queue = Histogram(_SECONDS)
        self._run = Histogram(_SECONDS)

    def add(self, name: str, number: int = 1) -> None:
        """Count requests that ended in one of the ways of `SchedulerStats`."""
        with self._lock:
            self._counts[name] += number

    def batch(self, waited: list[float]) -> None:
        """Count a batch that starts, and the seconds that each of its requests waited."""
        with self._lock:
            self._rows.add(len(waited))
            for seconds in waited:
                self._queue.add(seconds)

    def ran(self, seconds: float) -> None:
        """Count the seconds in which a request was answered."""
        with self._lock:
            self._run.add(seconds)

    def read(self, waiting: int, running: int) -> SchedulerStats:
        """Return what was counted so far."""
        with self._lock:
            histograms = (one.copy() for one in (self._rows, self._queue, self._run))
            rows, queue, run = histograms
            return SchedulerStats(
                waiting,
                running,
                **self._counts,
                rows=rows,
                queue_seconds=queue,
                run_seconds=run,
            )
