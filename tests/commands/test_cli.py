"""The entry point: one row per command, and one line where the extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mrrag_llamaindex.commands.app import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_example(mrrag, command):
    result = mrrag(command, "--help")
    assert result.code == 0
    assert f"mrrag {command}" in " ".join(result.out.split())
    assert "--json" in result.out


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_names_it(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from mrrag_llamaindex import cli; cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert 'pip install "mrrag-llamaindex[cli]"' in line
