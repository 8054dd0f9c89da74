"""What the documents name exists: links, commands and their options, modules, files, benchmarks."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import mrrag_llamaindex
from mrrag_llamaindex.commands.app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = typer.main.get_command(app).commands
HISTORY = "CHANGELOG.md"
BENCHMARKS = sorted(
    path
    for path in (ROOT / "tests" / "benchmarks").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)

of_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def code(document: Path) -> str:
    """Code spans and blocks of a document, one on a line; continued lines are joined."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    return "\n".join([*spans, *blocks]).replace("\\\n", " ")


def calls(document: Path, program: str) -> Iterator[tuple[str, list[str]]]:
    """What follows ``program`` in the document, and the long options that come with it."""
    for line in code(document).splitlines():
        for call in re.split(r"&&|\s#\s", line):
            match = re.search(rf"(?:^|[\s/]){program}([\w./-]+)(.*)", call)
            if match:
                yield match[1], re.findall(r"(?<![\w-])--[a-z][\w-]*", match[2])


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s", "-", heading.strip()) for heading in words}


@of_document
def test_links_resolve(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@of_document
def test_lines_of_text_can_be_read_without_wrapping(document):
    lines = document.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@of_document
def test_blocks_in_lists_are_indented_so_that_the_site_goes_on_counting(document):
    assert not re.findall(r"^ {1,3}```", document.read_text(encoding="utf-8"), re.MULTILINE)


@of_document
def test_commands_and_their_options_exist(document):
    of_stores = [(f"store {name}", used) for name, used in calls(document, "mrrag store ")]
    for name, options in [*calls(document, "mrrag (?!store )"), *of_stores]:
        group, _, rest = name.partition(" ")
        assert group in COMMANDS, f"mrrag {name}"
        command = COMMANDS[group].commands[rest] if rest else COMMANDS[group]
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {o for parameter in command.params for o in parameter.secondary_opts}
        assert set(options) <= known | {"--help"}, f"mrrag {name}"


def test_every_command_has_a_row_that_leads_to_its_page():
    rows = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `mrrag ([\w -]+)` \|.*\]\(\w+[\w-]*\.md", rows, re.MULTILINE)
    of_stores = [f"store {name}" for name in COMMANDS["store"].commands]
    assert sorted(named) == sorted([*(COMMANDS.keys() - {"store"}), *of_stores])


@of_document
def test_modules_and_files_exist(document):
    if document.name == HISTORY:
        return
    named = code(document)
    for name in re.findall(r"\bmrrag_llamaindex(?:\.\w+)+", named):
        module, _, attribute = name.rpartition(".")
        found = importlib.util.find_spec(name) or getattr(
            importlib.import_module(module), attribute, None
        )
        assert found, name
    for name in re.findall(r"\b(?:mrrag_llamaindex|tests|docs|demos|tools)/[\w./-]*\w", named):
        assert (ROOT / name).exists(), name


@of_document
def test_what_is_imported_from_the_package_is_public(document):
    for names in re.findall(r"from mrrag_llamaindex import ((?:\w+, )*\w+)", code(document)):
        for name in set(names.split(", ")) - set(mrrag_llamaindex.__all__):
            # A page on adding something imports modules, too.
            assert importlib.util.find_spec(f"mrrag_llamaindex.{name}"), name


def test_three_lines_of_the_readme_are_python():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert "MRRAGIndex.from_store" in ast.unparse(ast.parse(block))


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_readme_marks_the_command_that_ci_runs(name):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"<!-- {name} -->\n```bash\n([^\n]+)\n```\n", text)
    extras = re.search(r'"\.\[([\w,-]+)\]"', command)
    assert extras
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras[1].split(","))
    assert command.rstrip().endswith({"demo": "mrrag demo", "test": '-m "not slow"'}[name])


def test_benchmarks_that_the_documents_name_exist():
    named = {name for path in DOCUMENTS for name, _ in calls(path, "python tests/benchmarks/")}
    assert named <= {path.name for path in BENCHMARKS}


HELP = """
import contextlib, io, json, os, runpy, sys
scripts, told = sys.argv[1:], {}
for script in scripts:
    path = list(sys.path)
    sys.path[0] = os.path.dirname(script)
    sys.argv = [script, "--help"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
    told[os.path.basename(script)] = out.getvalue()
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_benchmarks_start_and_know_their_options(tmp_path):
    """As a user runs them: the package is installed, the tests are not."""
    (tmp_path / "mrrag_llamaindex").symlink_to(Path(mrrag_llamaindex.__file__).parent)
    answer = subprocess.run(
        [sys.executable, "-c", HELP, *map(str, BENCHMARKS)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert all(told.values())
    for path in DOCUMENTS:
        for name, options in calls(path, "python tests/benchmarks/"):
            if name in told:
                assert set(options) <= set(re.findall(r"--[a-z][\w-]*", told[name])), name
