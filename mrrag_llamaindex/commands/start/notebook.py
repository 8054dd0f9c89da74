"""``%mrrag``: the commands in a notebook, each in the process that is there already.

``%load_ext mrrag_llamaindex`` makes it known. Beside ``!mrrag`` it saves the seconds that a new
process takes to import torch, and prints plain text, without colours and bars.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_PLAIN = {"COLUMNS": "100", "FORCE_COLOR": None, "CLICOLOR_FORCE": None, "NO_COLOR": "1"}
"""Jupyter asks every program for colours, and rich for HTML."""


def register(shell: Any, app: Callable[..., Any]) -> None:
    """Make ``%mrrag`` known to an IPython shell; ``app`` is the command line."""

    def mrrag(line: str) -> None:
        """Run a command as a shell would: ``%mrrag ingest pairs.csv --store store``.

        What is wrong is said in one line on standard error, and the cells that follow go on, as
        they do after ``!mrrag``. IPython fills in ``{name}`` and ``$name``; ``{{name}}`` stays
        ``{name}``.
        """
        with _environment(_PLAIN), suppress(SystemExit):  # every command ends so, and has said why
            app(shlex.split(line), prog_name="mrrag")

    shell.register_magic_function(mrrag, "line")


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
