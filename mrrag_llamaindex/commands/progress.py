"""How far a long command is, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

from mrrag_llamaindex.commands.console import say_progress

_SECONDS_BETWEEN_LINES = 30.0


class Advance(Protocol):
    """Takes how much is done, of how much, how much of it an earlier run did, and what is done."""

    def __call__(
        self, done: int, total: int | None = None, resumed: int = 0, doing: str = ""
    ) -> None:
        """Show it."""
        ...


@contextmanager
def progress_bar(what: str, *, in_bytes: bool = False) -> Iterator[Advance]:
    """Show a bar with the time left on a terminal, elsewhere a line every half minute."""
    screen = Console(stderr=True, force_jupyter=False)
    columns = (
        TextColumn("{task.fields[doing]}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    started = last_line = time.monotonic()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None, doing=what, left="")

        def advance(done: int, total: int | None = None, resumed: int = 0, doing: str = "") -> None:
            nonlocal last_line
            now = time.monotonic()
            left = "" if total is None else time_left(now - started, done, total, resumed)
            bar.update(task, completed=done, total=total, doing=doing or what, left=left)
            if not screen.is_terminal and now - last_line > _SECONDS_BETWEEN_LINES:
                last_line = now
                counts = f"{done} {what}" if total is None else f"{done} of {total} {what}, {left}"
                say_progress(f"{doing}: {counts}" if doing else counts)

        yield advance


def time_left(seconds: float, done: int, total: int, resumed: int) -> str:
    """Return an estimate in words; what an earlier run did took no time.

    Examples
    --------
    >>> time_left(60.0, done=30, total=90, resumed=10)
    'about 3 min left'
    """
    fresh = done - resumed
    if fresh < 1:
        return "time left unknown"
    rest = seconds / fresh * (total - done)
    return f"about {rest / 60:.0f} min left" if rest >= 90 else f"about {rest:.0f} s left"
