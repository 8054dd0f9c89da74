"""Work for workers, importable by name; `kill_me` ends a worker as a lack of memory does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import InputError

SECRET = "a report of a patient"


def context(value: int = 10) -> int:
    return value


def kill_me(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cannot_begin() -> None:
    raise InputError("the towers are not there")


def broken() -> None:
    raise RuntimeError(SECRET)


def add(number: int, item: int) -> int:
    return number + item


def uneven(number: int, item: int) -> int:
    """Take longer for what comes first."""
    time.sleep(0.2 if item % 4 == 0 else 0.0)
    return number + item


def process_of(_: Any, item: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def dies_once(number: int, item: tuple[int, Path]) -> int:
    """Die over every third item, unless somebody has before."""
    value, folder = item
    mark = folder / f"died-{value}"
    if value % 3 == 1 and not mark.exists():
        mark.touch()
        kill_me()
    return number + value


def fails(number: int, item: int) -> int:
    if item == 5:
        raise InputError("the sixth item cannot be used")
    return number + item


def fails_otherwise(_: Any, item: int) -> int:
    raise KeyError(SECRET)


def write_down(number: int, value: int, folder: Path | None = None) -> int:
    if folder is not None:
        with (folder / "written.txt").open("a") as file:
            file.write(f"{value} {os.getpid()}\n")
    return value + number


def written_into(folder: Path) -> Callable[[int, int], int]:
    return partial(write_down, folder=folder)
