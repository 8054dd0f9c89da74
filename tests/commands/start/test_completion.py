"""Completion in the shell: it is there, and it is quick because nothing heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import atexit, sys
sys.argv = ["mrrag"]
heavy = ("torch", "transformers", "chromadb", "llama_index", "sklearn")
atexit.register(lambda: print([name for name in heavy if name in sys.modules]))
from mrrag_llamaindex.cli import main
main()
"""


@pytest.mark.slow
def test_commands_are_completed_without_a_heavy_import():
    words = {"_MRRAG_COMPLETE": "complete_bash", "COMP_WORDS": "mrrag in", "COMP_CWORD": "1"}
    run = [sys.executable, "-c", PROBE]
    done = subprocess.run(run, env=os.environ | words, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["init", "ingest", "[]"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(shell):
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="mrrag", complete_var="_MRRAG_COMPLETE", shell=shell)
    assert "_MRRAG_COMPLETE" in script


def test_help_names_both_options(mrrag):
    text = mrrag("--help").out
    assert "--install-completion" in text
    assert "--show-completion" in text
