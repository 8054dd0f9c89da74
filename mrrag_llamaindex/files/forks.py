"""What was loaded before a fork does not work behind it: it says so instead of hanging."""

from __future__ import annotations

import os

from mrrag_llamaindex.errors import MRRAGError


class ForkGuard:
    """Belongs to the process that made it.

    The threads of torch and of Chroma do not come along when a process forks, and the child waits
    for them without end.
    """

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def behind_fork(self) -> bool:
        """Whether this is another process than the one that made it."""
        return os.getpid() != self._process

    def check(self, what: str, error: type[MRRAGError]) -> None:
        """Raise ``error`` in another process, saying what to do there.

        Parameters
        ----------
        what : str
            What was loaded, as the beginning of a sentence.
        error : type of MRRAGError
        """
        if self.behind_fork:
            raise error(
                f"{what} opened or loaded before this process was forked, and would hang here for "
                "ever: open store, towers and model in each worker (gunicorn: without --preload, "
                "or in the post_fork hook), or start workers by spawn"
            )
