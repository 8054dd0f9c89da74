"""What a worker process does: it makes once what its work needs, and then does one part at a time.

Whatever goes wrong comes back as a value, because Ray prints and keeps the text of exceptions, and
these may quote a report.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrrag_llamaindex.errors import ClusterError, InputError, MRRAGError


class Outcome(NamedTuple):
    """What a worker has done: a value, or an error in its place."""

    value: Any = None
    error: Exception | None = None


class WorkerPlace(NamedTuple):
    """Where a worker runs."""

    host: str
    process: int


class Worker:
    """The actor.

    Parameters
    ----------
    make : callable
        Returns the context of the work: towers, a generator.
    folders : sequence of path
        What must be there, and the same as where the work was begun.
    """

    def __init__(self, make: Callable[[], Any], folders: Sequence[Path]) -> None:
        self._kept: dict[int, Any] = {}
        self._context, self._failed = _outcome(self._begin, make, folders)

    def ready(self) -> Outcome:
        """Return where this is once the context has been made."""
        return Outcome(WorkerPlace(socket.gethostname(), os.getpid()), self._failed)

    def do(self, function: Callable[[Any, Any], Any], item: Any) -> Outcome:
        """Return ``function(context, item)``."""
        return _outcome(function, self._context, item)

    def keep(self, function: Callable[[Any, Any], Any], item: Any, number: int) -> Outcome:
        """Do the same, and keep the value here until `finish` asks for it."""
        value, error = _outcome(function, self._context, item)
        self._kept[number] = value
        return Outcome(None, error)

    def finish(self, function: Callable[[Any, Any], Any], number: int) -> Outcome:
        """Return ``function(context, value)`` of the value that was kept."""
        return _outcome(function, self._context, self._kept.pop(number))

    def _begin(self, make: Callable[[], Any], folders: Sequence[Path]) -> Any:
        for folder in folders:
            if not folder.exists():
                raise InputError(
                    f"the worker on {socket.gethostname()} does not see {str(folder)!r}: what is "
                    "read and written must lie where all machines of the cluster find it"
                )
        return make()


def _outcome(function: Callable[..., Any], *arguments: Any) -> Outcome:
    try:
        return Outcome(function(*arguments))
    except Exception as error:
        return Outcome(None, _told(error))


def _told(error: Exception) -> Exception:
    """Return an error that may leave the process: ours as it is, of others what they are."""
    if isinstance(error, MRRAGError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return ClusterError(str(error))
        return error.with_traceback(None)
    if isinstance(error, MemoryError):
        return ClusterError("the memory of a worker's machine does not suffice")
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = ""
    if place is not None:
        where = f" in {Path(place.tb_frame.f_code.co_filename).name}, line {place.tb_lineno}"
    # What it says may quote a report.
    return ClusterError(f"a worker failed ({type(error).__name__}{where})")
