"""How far a long command is, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mrrag_llamaindex.commands import console

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel

_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress_with_time_left(what: str) -> Iterator[Callable[[str, int, int, int], None]]:
    """Show a bar with the time left on a terminal, elsewhere a line every half minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[doing]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    started = told = time.monotonic()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None, doing=what, left="")

        def advance(doing: str, done: int, total: int, resumed: int) -> None:
            nonlocal told
            left = time_left(time.monotonic() - started, done, total, resumed)
            bar.update(task, completed=done, total=total, doing=doing, left=left)
            if not screen.is_terminal and time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                console.say_progress(f"{doing}: {done} of {total} {what}, {left}")

        yield advance


def time_left(seconds: float, done: int, total: int, resumed: int) -> str:
    """Return an estimate in words; what was in the file already took no time.

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


def layers_note(loaded: LoadedModel, *, kept: bool) -> str:
    """Name the layers and where they come from; ``kept`` ones were found here by find-layers."""
    layers = f"critical layers {', '.join(map(str, loaded.critical_layers))}"
    if kept:
        return f"{layers}: as mrrag find-layers found on this model"
    if loaded.layers_are_known:
        return f"{layers}: from the profile in the model's folder"
    return (
        f"{layers}, the middle third: none were found on this model; mrrag find-layers finds them"
    )
