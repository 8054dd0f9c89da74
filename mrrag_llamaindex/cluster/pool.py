"""Workers of a Ray cluster that do the parts of a long work, with results in the parts' order.

Ray restarts actors and repeats their calls by itself, too, but on the same actor: a part then waits
for a machine that may not come back. Here a part whose worker has died goes to the next free one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.cluster.worker import Outcome, Worker, WorkerPlace
from mrrag_llamaindex.errors import ClusterError

MOST_DEATHS: Final = 3
"""Workers that may die over one part before it is given up."""

AHEAD: Final = 4
"""Parts for each worker that may be begun, or done, before the first of them is taken."""

_NOTE_SECONDS = 60.0

Function = Callable[[Any, Any], Any]
"""From a worker's context and a part to what the part gives; importable by name."""


@dataclass
class _Part:
    number: int
    item: Any
    deaths: int = 0


@dataclass(eq=False)
class _Hand:
    """A worker as the pool sees it."""

    actor: Any
    place: WorkerPlace | None = None
    part: _Part | None = None


@dataclass
class _Run:
    """The parts of one run: not begun, in the works, kept by their worker, and done."""

    function: Function
    finish: Function | None
    source: Iterator[Any]
    again: deque[_Part] = field(default_factory=deque)
    kept: dict[int, tuple[_Hand, _Part]] = field(default_factory=dict)
    done: dict[int, Outcome] = field(default_factory=dict)
    begun: int = 0
    turn: int = 0
    exhausted: bool = False

    def next_part(self, room: int) -> _Part | None:
        """Return what is to be done next, None if nothing is or too much waits for its turn."""
        if self.again:
            return self.again.popleft()
        if self.exhausted or self.begun >= self.turn + room:
            return None
        number = self.begun
        try:
            part = _Part(number, next(self.source))
        except StopIteration:
            self.exhausted = True
            return None
        except Exception as error:
            # Raised when its turn has come: what came before is done first.
            self.exhausted, self.done[number] = True, Outcome(None, error)
            return None
        self.begun += 1
        return part


class Pool:
    """Workers that hold what they have made once; a context manager that ends them.

    Parameters
    ----------
    ray : module
        Connected, see `connection.connected`.
    make : callable
        Called in every worker, and so importable by name; see `Worker`.
    count : int
        Workers.
    cpus, gpus : float
        Of each.
    folders : sequence of path
        That every worker must see.
    note : callable
        Takes a line for a person.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Any],
        count: int,
        *,
        cpus: float = 1,
        gpus: float = 0,
        folders: Sequence[Path] = (),
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.count = count
        self._ray = ray
        self._note = note
        self._begin = make, [Path(folder).absolute() for folder in folders]
        self._actor = ray.remote(
            num_cpus=cpus, num_gpus=gpus, max_restarts=0, concurrency_groups={"finish": 1}
        )(Worker)
        self._hands: list[_Hand] = []
        self._calls: dict[Any, tuple[_Hand, _Part | None, str]] = {}
        self._starts_in_vain = 0
        for _ in range(count):
            self._start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            self._ray.kill(hand.actor)
        self._hands, self._calls = [], {}

    def ask(self, function: Function, item: Any = None) -> Any:
        """Return what one worker says."""
        return next(self.run(function, [item]))

    def run(
        self, function: Function, items: Iterable[Any], *, finish: Function | None = None
    ) -> Iterator[Any]:
        """Yield one result for each item, in the order of the items.

        Parameters
        ----------
        function : Function
        items : iterable
            Taken a few at a time. What it raises is raised when everything before is yielded.
        finish : Function, optional
            Takes in the place of the item what ``function`` returned, in the same worker, one item
            at a time and in their order; its results are then yielded. What is not finished when
            its worker dies is done again from the beginning.

        Raises
        ------
        ClusterError
            If workers die over one item `MOST_DEATHS` times, or fail in a way of their own.
        MRRAGError
            As ``function`` and ``finish`` raise it; what comes before in the order is yielded.
        """
        run = _Run(function, finish, iter(items))
        while True:
            self._hand_out(run)
            if run.turn in run.done:
                outcome = run.done.pop(run.turn)
                if outcome.error is not None:
                    raise outcome.error
                run.turn += 1
                yield outcome.value
            elif run.exhausted and run.turn >= run.begun:
                return
            else:
                self._wait(run)

    def _start(self) -> None:
        hand = _Hand(self._actor.remote(*self._begin))
        self._hands.append(hand)
        self._calls[hand.actor.ready.remote()] = hand, None, "start"

    def _hand_out(self, run: _Run) -> None:
        for hand in self._hands:
            if hand.place is None or hand.part is not None:
                continue
            hand.part = part = run.next_part(AHEAD * self.count)
            if part is None:
                break
            call = hand.actor.do if run.finish is None else hand.actor.keep
            number = () if run.finish is None else (part.number,)
            self._calls[call.remote(run.function, part.item, *number)] = hand, part, "do"
        if run.turn in run.kept:
            hand, part = run.kept.pop(run.turn)
            finish = hand.actor.finish.options(concurrency_group="finish")
            self._calls[finish.remote(run.finish, part.number)] = hand, part, "finish"

    def _wait(self, run: _Run) -> None:
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_NOTE_SECONDS)
        if not ready and not any(hand.place for hand in self._hands):
            self._note("no worker has begun yet: the cluster is busy, or is loading what they need")
        for call in ready:
            if call not in self._calls:  # of a worker that has just been found dead
                continue
            hand, part, what = self._calls.pop(call)
            try:
                outcome: Outcome = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise _unequal(type(error.cause).__name__) from None
            except self._ray.exceptions.RayError as error:
                if part is None and "creation task" in str(error):
                    raise _unequal(type(error).__name__) from None
                self._bury(hand, part, run)
                continue
            if part is None:
                if outcome.error is not None:
                    raise outcome.error
                hand.place = outcome.value
                continue
            if what == "do":
                hand.part = None
            if run.finish is None or what == "finish" or outcome.error is not None:
                run.done[part.number] = outcome
                run.exhausted = run.exhausted or outcome.error is not None
            else:
                run.kept[part.number] = hand, part

    def _bury(self, hand: _Hand, part: _Part | None, run: _Run) -> None:
        """Give the parts of a dead worker to others, and start another one."""
        self._hands.remove(hand)
        lost = [hand.part, part]
        for number in [number for number, (owner, _) in run.kept.items() if owner is hand]:
            lost.append(run.kept.pop(number)[1])
        for call in [call for call, (owner, *_) in self._calls.items() if owner is hand]:
            lost.append(self._calls.pop(call)[1])
        parts = {item.number: item for item in lost if item is not None}
        # In front: everything behind them waits for its turn.
        run.again.extendleft(sorted(parts.values(), key=lambda item: -item.number))
        for item in parts.values():
            item.deaths += 1
        if hand.place is None:
            self._starts_in_vain += 1
        deaths = max([self._starts_in_vain, *(item.deaths for item in parts.values())])
        if deaths >= MOST_DEATHS:
            raise ClusterError(
                f"{deaths} workers have died over the same part of the work (killed, short of "
                "memory, or gone with their machine). What is written stays: the same command goes "
                "on from there; if memory is short, with fewer --workers"
            )
        where = f" {hand.place.process} on {hand.place.host}" if hand.place else ""
        self._note(f"worker{where} has died: others take over what it had in hand")
        self._start()


def _unequal(reason: str) -> ClusterError:
    return ClusterError(
        f"a worker cannot take its work ({reason}): every machine of the cluster needs the "
        "mrrag-llamaindex that is installed here, in the same version"
    )
