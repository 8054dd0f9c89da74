"""What a campaign counts, and how one part of it is run: input by input, in a process of its own.

Hypothesis makes the inputs, the same ones for the same seed. An input must end as the value that
it stands for, or as an error of this project; anything else is a traceback, and so is what takes
longer than `MOST_SECONDS`, takes more than `MOST_BYTES`, or ends the process.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy, integers

from mrrag_llamaindex.errors import MRRAGError

MOST_SECONDS = 30.0
"""For one input. Far above what any takes, because the machine may be busy."""

MOST_BYTES = 2**30
"""For one input, beyond what the process held at its start."""

ROUND = 100
"""Inputs of one run of hypothesis; each round has a seed of its own."""

FORK = multiprocessing.get_context("fork")
"""Processes begin with everything imported."""


class WrongValueError(Exception):
    """An input became something else than it stands for, and nothing said so."""


@dataclass
class Tally:
    """What one part did.

    Attributes
    ----------
    inputs, values, refused : int
        Those tried; those that became a value, and those that the project refused.
    tracebacks, wrong, lost : int
        What must be 0: inputs that ended otherwise, wrong values, and rows that were lost.
    notes : list of str
        A line for each of them, and what else there is to say.
    remark : str
        What else there is to say, in a few words.
    """

    part: str
    inputs: int = 0
    values: int = 0
    refused: int = 0
    tracebacks: int = 0
    wrong: int = 0
    lost: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    remark: str = ""

    @property
    def failures(self) -> int:
        return self.tracebacks + self.wrong + self.lost

    def note(self, what: str, reproduction: str) -> None:
        self.notes.append(f"{what}  [{reproduction}]")


@dataclass(frozen=True)
class Part:
    """Inputs of one kind.

    Parameters
    ----------
    name : str
    inputs : SearchStrategy
    check : callable
        Takes an input and an empty folder; gives the input to the project and compares what comes
        of it with what is known of the input. Raises `WrongValueError` if it is not that.
    """

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any, Path], None]

    def run(self, seconds: float, number: int) -> Tally:
        """Try inputs for some seconds; ``number`` is the seed."""
        tally, started, first = Tally(self.name), time.monotonic(), 0
        while (left := started + seconds - time.monotonic()) > 0:
            first = self._watch(tally, first, number, left)
        tally.seconds = time.monotonic() - started
        return tally

    def repeat(self, number: int, example: int) -> None:
        """Try one input again, in this process: it is printed, and its traceback is seen."""

        def once(place: int, value: Any, folder: Path) -> None:
            if place == example:
                print(repr(value)[:5000])
                try:
                    self.check(value, folder)
                except Exception:
                    traceback.print_exc()

        self._inputs(number, example, once, rounds=1)

    def _watch(self, tally: Tally, first: int, number: int, seconds: float) -> int:
        """Run a process from one input on, until the time is over or it ends; return the next."""
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=self._work, args=(theirs, number, first))
        process.start()
        theirs.close()
        until = time.monotonic() + seconds
        place = first
        try:
            while time.monotonic() < until:
                if not ours.poll(MOST_SECONDS):  # also the last one, beyond the budget
                    self._count(tally, number, place, "tracebacks", "it takes for ever")
                    place += 1
                    break
                place, outcome, what = ours.recv()
                self._count(tally, number, place, outcome, what)
                place += 1
        except EOFError:
            process.join()
            if process.exitcode == 1:
                raise RuntimeError("the campaign itself has failed, see above") from None
            what = f"the process ended ({process.exitcode})"
            self._count(tally, number, place, "tracebacks", what)
            place += 1
        finally:
            process.kill()
            process.join()
        return place

    def _count(self, tally: Tally, number: int, place: int, outcome: str, what: str) -> None:
        tally.inputs += 1
        setattr(tally, outcome, getattr(tally, outcome) + 1)
        if outcome in ("tracebacks", "wrong"):
            tally.note(
                f"{outcome}: {what}", f"--part {self.name} --seed {number} --example {place}"
            )

    def _work(self, pipe: Connection, number: int, first: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        room = 4 * MOST_BYTES + int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (room, room))

        # A fork inherits the peak of its parent, below which nothing that it takes would be seen.
        Path("/proc/self/clear_refs").write_text("5")
        held = _peak()

        def report(place: int, value: Any, folder: Path) -> None:
            nonlocal held
            outcome, what = self._outcome(value, folder)
            if outcome in ("tracebacks", "wrong"):
                # Where the package is installed otherwise, hypothesis draws other inputs.
                what += f": {value!r:.500}"
            if (taken := _peak() - held) > MOST_BYTES:
                outcome, what = "tracebacks", f"it takes {taken >> 20} MiB"
                held += taken
            pipe.send((place, outcome, what))

        self._inputs(number, first, report)

    def _outcome(self, value: Any, folder: Path) -> tuple[str, str]:
        try:
            self.check(value, folder)
        except WrongValueError as error:
            return "wrong", str(error)
        except MRRAGError:
            return "refused", ""
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(f"{type(error).__name__}: {error}"[:200].split())
            return "tracebacks", f"{text} ({Path(place.filename).name}:{place.lineno})"
        return "values", ""

    def _inputs(
        self, number: int, first: int, use: Callable[[int, Any, Path], None], rounds: int = 0
    ) -> None:
        """Make the inputs from one on; those before it in its round are made and not used."""
        begin = first // ROUND
        for turn in range(begin, begin + rounds) if rounds else count(begin):
            places = count(turn * ROUND)

            @seed(f"{number} {self.name} {turn}")
            @settings(
                max_examples=ROUND,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(self.inputs)
            def try_all(value: Any) -> None:
                place = next(places)  # noqa: B023 (called before the next turn)
                if place >= first:
                    with tempfile.TemporaryDirectory() as folder:
                        use(place, value, Path(folder))

            try_all()


def warm_up() -> None:
    """Let hypothesis read the constants of every module that is imported, once for all processes.

    What it draws depends on them.
    """
    Part("", integers(), lambda value, folder: None)._inputs(0, 0, lambda *_: None, rounds=1)


def _peak() -> int:
    """Return the most bytes that this process has held so far, or since that was cleared."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
