"""The notebooks run from top to bottom, and are saved with what they print."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DEMOS = Path(__file__).parents[2] / "demos"
NOTEBOOKS = sorted(DEMOS.glob("*.ipynb"))


def printed(notebook) -> list[str]:
    """What each cell prints; standard error holds only what libraries say of the machine."""
    shown = []
    for cell in notebook.cells:
        outputs = [item for item in cell.get("outputs", []) if item.get("name") != "stderr"]
        # A stream may arrive in one piece or in several.
        shown.append("".join(item.get("text", item["output_type"]) for item in outputs))
    return shown


def numbers_agree(one: str, two: str) -> bool:
    words, others = one.split(), two.split()
    if len(words) != len(others):
        return False
    for word, other in zip(words, others, strict=True):
        try:
            if float(word) != pytest.approx(float(other), abs=0.01):
                return False
        except ValueError:
            if word != other:
                return False
    return True


def test_both_notebooks_are_here():
    assert [path.stem for path in NOTEBOOKS] == ["existing_app", "quickstart"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem != "quickstart"), id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_notebook_runs_and_prints_what_is_saved(path):
    saved = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=300, kernel_name="python3").execute()
    before, after = printed(saved), printed(fresh)
    assert any(before)
    for one, two in zip(before, after, strict=True):
        assert numbers_agree(one, two), f"saved:\n{one}\nnow:\n{two}"
