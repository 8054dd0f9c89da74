"""The queue in front of one model, and the thread that works it off in batches."""

from __future__ import annotations

import atexit
import functools
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import BusyError
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.scheduling.batch import run_batch
from mrrag_llamaindex.generation.scheduling.job import Admission, Generated, Job
from mrrag_llamaindex.generation.scheduling.selection import next_batch
from mrrag_llamaindex.generation.scheduling.statistics import Counters, SchedulerStats

_IDLE_SECONDS = 2.0  # how long the thread waits for more work before it ends


class Scheduler:
    """Requests of any number of threads, run together where they wait together.

    A call that finds nobody else runs in its own thread. For all others, a thread of the scheduler
    generates while there is work, and ends some time after the last. It holds on to no model: that
    belongs to the requests.
    """

    def __init__(self) -> None:
        self._process = ForkGuard()
        self._changed = threading.Condition()  # of all below; its lock may be taken twice
        self._waiting: list[Job] = []
        self._running: Sequence[Job] = ()
        self._coming = 0
        self._thread: threading.Thread | None = None
        self._counters = Counters()

    @property
    def stats(self) -> SchedulerStats:
        """What was counted so far."""
        with self._changed:
            running = sum(not job.done() for job in self._running)
            return self._counters.read(len(self._waiting), running)

    def coming(self) -> Arrival:
        """Tell, while a request is prepared, that it will soon be there.

        Returns
        -------
        Arrival
            A context manager, for `submit`.
        """
        return Arrival(self)

    def submit(
        self, jobs: Sequence[Job], admission: Admission, arrival: Arrival | None = None
    ) -> None:
        """Put requests into the queue.

        Parameters
        ----------
        jobs : sequence of Job
        admission : Admission
            Without a limit of the queue, they are let in as those that go on with a call.
        arrival : Arrival, optional
            What told that they were coming.

        Raises
        ------
        BusyError
            If the queue is full.
        """
        with self._changed:
            if arrival is not None:
                arrival.end()
            waiting = len(self._waiting)
            if admission.max_queue is not None and waiting >= admission.max_queue:
                self._counters.add("refused", len(jobs))
                raise BusyError.full(waiting)
            for job in jobs:
                job.join(admission.queue_timeout)
                job.add_done_callback(self._left)
                if not job.done():
                    self._waiting.append(job)
            if self._thread is None:
                _close_at_exit(self)
                self._thread = threading.Thread(
                    target=self._work, name="mrrag-scheduler", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def answer(self, jobs: Sequence[Job], admission: Admission, arrival: Arrival) -> None:
        """Run requests in the caller's own thread if nobody else is about, or else queue them.

        A lone call has no thread to wait for then; those that come meanwhile wait for its end. The
        results are in the jobs, then or later.

        Parameters
        ----------
        jobs, admission, arrival
            As for `submit`.

        Raises
        ------
        BusyError
            If the queue is full.
        """
        with self._changed:
            arrival.end()
            if self._waiting or self._running or self._coming:
                self.submit(jobs, admission)
                return
            _close_at_exit(self)
            for job in jobs:
                job.join(None)
                job.add_done_callback(self._left)
            self._running = jobs
        try:
            left = list(jobs)
            while left:
                chosen, shared = next_batch(left)
                self._run(chosen, shared)
                left = [job for job in left if job not in chosen]
        finally:
            self._rest()

    def close(self) -> None:
        """Cancel whatever is not done, and wait until the model is at rest."""
        if self._process.behind_fork:  # whoever runs here did not come along
            return
        with self._changed:
            jobs = [*self._waiting, *self._running]
        for job in jobs:
            job.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def _left(self, job: Future[Generated]) -> None:
        """Note how a request ended, in whichever thread ended it."""
        if job.cancelled():
            with self._changed:
                self._waiting = [one for one in self._waiting if one is not job]
            self._counters.add("cancelled")
        elif job.exception() is None:
            self._counters.add("answered")
            self._counters.ran(job.result().seconds)
        elif not isinstance(job.exception(), BusyError):
            self._counters.add("failed")

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(self._has_work, _IDLE_SECONDS):
                    if self._waiting:
                        continue  # for the end of what another thread runs
                    self._thread = None
                    return
            self._work_once()

    def _has_work(self) -> bool:
        return bool(self._waiting) and not self._running

    def _rest(self) -> None:
        with self._changed:
            self._running = ()
            self._changed.notify_all()

    def _work_once(self) -> None:
        with self._changed:
            self._changed.wait_for(self._is_complete, defaults.BATCH_WAIT)
            self._give_up_late_ones()
            if self._running:
                return  # a lone call began while this waited
            jobs, shared = self._chosen()
            if not jobs:
                return  # what waited was cancelled
            self._running = jobs
        try:
            self._run(jobs, shared)
        finally:
            self._rest()

    def _is_complete(self) -> bool:
        """Whether nobody is on the way, or a batch could not take more."""
        if not self._coming or not self._waiting:
            return True
        return len(self._waiting) >= self._waiting[0].asked.batch_size

    def _give_up_late_ones(self) -> None:
        with self._changed:
            now = time.monotonic()
            late = [job for job in self._waiting if job.deadline < now]
            self._waiting = [job for job in self._waiting if job.deadline >= now]
        for job in late:
            if job.fail(BusyError.late(now - job.arrived)):
                self._counters.add("timed_out")

    def _chosen(self) -> tuple[Sequence[Job], int]:
        if not self._waiting:
            return (), 0
        try:
            jobs, shared = next_batch(self._waiting)
        except Exception as error:  # it must not end the thread
            jobs, shared = self._waiting[:1], 0
            jobs[0].fail(error)
        self._waiting = [job for job in self._waiting if job not in jobs]
        return jobs, shared

    def _run(self, jobs: Sequence[Job], shared: int) -> None:
        """Run a batch; where it fails, its halves, so that in the end only the culprit fails."""
        jobs = [job for job in jobs if not job.done()]
        if not jobs:
            return
        now = time.monotonic()
        self._counters.batch([now - job.arrived for job in jobs])
        failure: BaseException | None = None
        try:
            with person_readable():
                run_batch(jobs, shared, self._give_up_late_ones)
        except BaseException as error:
            failure = error
        if failure is None:
            return
        if isinstance(failure, KeyboardInterrupt):  # of a lone call, in its own thread
            for job in jobs:
                job.cancel()
            raise failure
        if len(jobs) == 1 or not isinstance(failure, Exception):
            for job in jobs:
                job.fail(failure)
            return
        del failure  # and with it the tensors of its frames
        for job in jobs:
            job.restart()
        middle = len(jobs) // 2
        self._run(jobs[:middle], shared)
        self._run(jobs[middle:], shared)


class Arrival:
    """A request that is being prepared: a batch that could take more rows waits for it.

    It does so for at most `defaults.BATCH_WAIT` seconds, and never for itself.

    Parameters
    ----------
    scheduler : Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._count = 0

    def __enter__(self) -> Arrival:
        self._change(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Say that it has arrived, or never will."""
        self._change(-self._count)

    def _change(self, number: int) -> None:
        with self._scheduler._changed:
            self._count += number
            self._scheduler._coming += number
            if number < 0:
                self._scheduler._changed.notify_all()


_OPEN: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@functools.cache
def _registered() -> None:
    def close() -> None:
        for scheduler in list(_OPEN):
            scheduler.close()

    atexit.register(close)


def _close_at_exit(scheduler: Scheduler) -> None:
    """Let no thread generate while the interpreter is taken down: torch would abort the process."""
    _registered()
    _OPEN.add(scheduler)
