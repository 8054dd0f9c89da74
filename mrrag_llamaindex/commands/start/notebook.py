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

from mrrag_llamaindex.commands.console import say

_PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "FORCE_COLOR": "", "CLICOLOR_FORCE": ""}
"""Jupyter asks every program for colours; an empty text does not."""

_LASTING = ("serve", "page")
"""They have an event loop, and so has a notebook: one thread takes no two."""


def register(shell: Any, app: Callable[..., Any]) -> None:
    """Make ``%mrrag`` known to an IPython shell; ``app`` is the command line."""

    def mrrag(line: str) -> None:
        """Run a command as a shell would: ``%mrrag ingest pairs.csv --store store``.

        What is wrong is said in one line on standard error, and the cells that follow go on, as
        they do after ``!mrrag``. IPython fills in ``{name}`` and ``$name``; ``{{name}}`` stays
        ``{name}``. Of a shell there are quotes and ``~``, but no pipes, files or comments.
        """
        with _environment(), suppress(SystemExit):  # every command ends so, and has said why
            try:
                words = [os.path.expanduser(word) for word in shlex.split(line)]  # noqa: PTH111
            except ValueError as error:  # the apostrophe of a question without quotes
                say("error", f"{error}: a text that holds an apostrophe goes in double quotes")
                return
            if words and words[0] in _LASTING and "--help" not in words:
                say("error", f"mrrag {words[0]} needs a process of its own: run it in a terminal")
                return
            app(words, prog_name="mrrag")

    shell.register_magic_function(mrrag, "line")


@contextmanager
def _environment() -> Iterator[None]:
    """Let a command set what it likes, and put everything back: the process is not its own."""
    before = dict(os.environ)
    os.environ.update(_PLAIN)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
