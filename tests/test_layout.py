"""Folders stay small, and libraries that may be replaced are imported in one folder each."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mrrag_llamaindex"
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})
MOST_FILES = 12
ONLY_IN = {
    "llama_index": ["integration", "store/llamaindex"],
    "langchain_core": ["langchain"],
    "ray": ["cluster"],
    "typer": ["commands"],
}
"""Library to the folders that may import it; databases have contracts in pyproject.toml."""


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Top-level names of every import in a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return frozenset(names)


def test_folders_hold_a_dozen_files_at_most():
    for folder in FOLDERS:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, (folder.relative_to(ROOT).as_posix(), sorted(files))


@pytest.mark.slow
@pytest.mark.parametrize(("library", "folders"), ONLY_IN.items())
def test_a_library_is_imported_in_its_folders_alone(library, folders):
    users = {path for path in PACKAGE.rglob("*.py") if library in imported(path)}
    homes = {PACKAGE / folder for folder in folders}
    strangers = {path for path in users if not homes & set(path.parents)}
    assert users, f"nothing imports {library}: the rule has lost its object"
    assert not strangers, sorted(path.relative_to(ROOT).as_posix() for path in strangers)
