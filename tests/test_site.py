"""The site: its parts are complete, and what its pages show is what happens."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mrrag_llamaindex
from tests.real_towers import missing_weights
from tools.site import check, reference
from tools.site.tables import TABLES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))
BLOCK = re.compile(r"(<!--[^>]*-->\n)?^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages <= set(re.findall(r": ([\w/-]+\.md)$", NAVIGATION, re.MULTILINE))


def test_three_links_in_the_text_lead_from_the_start_to_every_page():
    reached = {DOCS / "index.md"}
    for _ in range(3):
        for page in list(reached):
            links = re.findall(r"\]\(([^)#\s:]+\.md)", page.read_text(encoding="utf-8"))
            reached |= {(page.parent / link).resolve() for link in links}
    assert set(DOCS.rglob("*.md")) <= reached


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: (.+)$", reference.directives(), re.MULTILINE)
    assert sorted(named) == sorted(reference.public_names())
    assert {f"mrrag_llamaindex.{name}" for name in mrrag_llamaindex.__all__} <= set(named)


def test_a_name_in_no_group_comes_last(monkeypatch):
    monkeypatch.setattr(reference, "GROUPS", {"Asking": ("ask",)})
    assert "## Others\n\n::: mrrag_llamaindex.BusyError" in reference.directives()


@pytest.mark.parametrize("name", TABLES)
def test_tables_come_from_the_registries(name):
    head, rule, first, *_ = TABLES[name]().splitlines()
    assert len({line.count(" | ") for line in (head, rule, first)}) == 1


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda path: path.stem)
def test_worked_numbers_are_what_the_code_gives(page):
    """A page's blocks share their names, as a reader would type them one after the other."""
    blocks = re.findall(r"^```pycon\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.stem, str(page), 0)
    assert test.examples
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda path: path.stem)
def test_a_concept_has_a_drawing(page):
    (drawing,) = re.findall(r"\]\((\w+\.svg)\)", page.read_text(encoding="utf-8"))
    text = (page.parent / drawing).read_text(encoding="utf-8")
    assert text.count("http") == text.count('xmlns="http://www.w3.org/2000/svg"') == 1


def test_what_a_page_would_fetch_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<a href="https://docs.ray.io">Ray</a><script src="own.js"></script>')
    assert not list(check.loaded_from_elsewhere(tmp_path))
    page.write_text('<script src="https://unpkg.com/shim"></script>')
    (tmp_path / "a.css").write_text("@font-face { src: url(//fonts.example/a.woff) }")
    assert len(list(check.loaded_from_elsewhere(tmp_path))) == 2


def commands(page: str) -> list[str]:
    """Blocks of a page that can be run.

    One that cannot, or whose commands may say no, has a comment before it that says why.
    """
    runnable = []
    for comment, language, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if comment.startswith("<!-- not run"):
            assert ": " in comment, "say why"
        elif comment.startswith("<!-- may refuse: "):
            runnable += [f"{line} || test $? = 2" for line in text.splitlines()]
        elif language == "python":
            runnable.append(f"python - <<'END'\n{text}END\n")
        else:
            runnable.append(text)
    return runnable


def test_pages_of_commands_have_commands():
    assert all(len(commands(page)) >= 4 for page in ("ten-minutes.md", "real-pairs.md"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "ten-minutes.md",
        pytest.param(
            "real-pairs.md",
            marks=[
                pytest.mark.real,
                pytest.mark.skipif(bool(missing_weights()), reason=missing_weights() or "-"),
                pytest.mark.skipif(
                    "MRRAG_HOUR_PAGE" not in os.environ, reason="minutes: set MRRAG_HOUR_PAGE=1"
                ),
            ],
        ),
    ],
)
def test_commands_run_as_printed(page, tmp_path):
    """One after the other, in a folder that has what the root of a clone has."""
    for name in ("mrrag_llamaindex", "tests", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    home = Path(sys.executable).parent
    assert shutil.which("mrrag", path=home), "the package is not installed here"
    environment = {
        **os.environ,
        "PATH": f"{home}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    script = "set -euo pipefail\n" + "\n".join(commands(page))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
