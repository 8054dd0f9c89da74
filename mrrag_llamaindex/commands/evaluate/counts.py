"""Several numbers of documents, run one after the other: ``--documents 1-6``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.tasks.task import Task

MOST = 50


def chosen_counts(text: str | None) -> tuple[int, ...]:
    """Read numbers of documents: ``7`` or ``1-6``; nothing if none is named.

    Raises
    ------
    InputError
        If it is neither.
    """
    if text is None:
        return ()
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if not 1 <= first <= last <= MOST:
        raise InputError(f"--documents is {text!r}; it must be a number from 1, or a range as 1-6")
    return tuple(range(first, last + 1))


def folder_of(out: Path | None, count: int, counts: Sequence[int]) -> Path | None:
    """Return where the answers with one number of documents go."""
    return out if out is None or len(counts) == 1 else out / f"k{count}"


def compare_counts(values: Mapping[int, dict[str, Any]], task: Task, *, as_json: bool) -> None:
    """Print the main metric of every method by the number of documents."""
    if as_json:
        console.print_json(
            {"task": task.name, "by_documents": {str(k): v for k, v in values.items()}}
        )
        return
    first = next(iter(values.values()))
    table = console.plain_table(2)
    table.add_column(f"{task.heads.get(task.main, task.main)} by K", no_wrap=True)
    for count in values:
        table.add_column(str(count), justify="right")
    for place, row in enumerate(first["rows"]):
        shown = [value["rows"][place].get(task.main) for value in values.values()]
        cells = ["-" if one is None else f"{100 * one:.1f}" for one in shown]
        table.add_row(Text(row["method"]), *cells)
    screen = console.screen()
    screen.print()
    screen.print(table)
