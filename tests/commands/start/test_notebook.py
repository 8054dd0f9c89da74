"""``%mrrag``: a command in a notebook prints what it prints in a shell, and ends no notebook."""

from __future__ import annotations

import os

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mrrag_llamaindex import __version__


@pytest.fixture
def shell(monkeypatch) -> InteractiveShell:
    # As a kernel of Jupyter sets them.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "mrrag_llamaindex")
    return shell


def test_a_command_runs_in_this_process(shell, capsys):
    shell.run_line_magic("mrrag", "--version")
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_error_is_one_plain_line_and_the_notebook_goes_on(shell, capsys, tmp_path):
    shell.user_ns["missing"] = tmp_path / "not here"
    outcome = shell.run_cell("%mrrag status '{missing}'\nafter = True")
    said = capsys.readouterr().err
    assert outcome.success
    assert shell.user_ns["after"]
    assert said.startswith("error: ")
    assert "not here" in said
    assert "\x1b" not in said


def test_an_apostrophe_is_one_line_and_a_home_folder_is_found(shell, capsys, monkeypatch, tmp_path):
    shell.run_line_magic("mrrag", "ask Is the patient's lung clear?")
    said = capsys.readouterr().err
    assert said.startswith("error: No closing quotation")
    assert said.count("\n") == 1
    assert "\x1b" not in said
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shell.run_line_magic("mrrag", "status ~/absent")
    assert str(tmp_path / "absent") in capsys.readouterr().err


@pytest.mark.parametrize("line", ["serve --store store --model phantom", "page --demo"])
def test_a_server_is_refused_since_the_notebook_has_the_loop(shell, capsys, line):
    shell.run_line_magic("mrrag", line)
    assert "run it in a terminal" in capsys.readouterr().err
    shell.run_line_magic("mrrag", f"{line.split()[0]} --help")
    assert "Usage: mrrag" in capsys.readouterr().out


def test_the_environment_is_as_it_was(shell):
    before = dict(os.environ)
    shell.run_line_magic("mrrag", "--version")
    assert dict(os.environ) == before
