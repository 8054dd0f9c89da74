"""Folders stay small, and libraries that may be replaced are imported in one folder each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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


def imported(path: Path) -> Iterator[str]:
    """Top-level names of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_folders_hold_a_dozen_files_at_most(folder):
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES, sorted(files)


@pytest.mark.parametrize(("library", "folders"), ONLY_IN.items())
def test_a_library_is_imported_in_its_folders_alone(library, folders):
    users = {path for path in PACKAGE.rglob("*.py") if library in imported(path)}
    homes = {PACKAGE / folder for folder in folders}
    strangers = {path for path in users if not homes & set(path.parents)}
    assert users, f"nothing imports {library}: the rule has lost its object"
    assert not strangers, sorted(path.relative_to(ROOT).as_posix() for path in strangers)
