"""The notebooks run from top to bottom, print what is saved with them, and end on a picture."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.real_towers import missing_weights

DEMOS = Path(__file__).parents[2] / "demos"
NAMES = [
    "evaluation",
    "existing_app",
    "langchain",
    "looking_inside",
    "quickstart",
    "serving",
    "your_pairs",
]
MOST_BYTES = 60_000

_VARYING = re.compile(r"\d+\.\d s\b|/\S*/tmp\w{8}(?=/)|\d+\.\d MB")
"""Times, temporary folders, and sizes of databases."""
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell) -> str:
    """What a cell prints; standard error holds only what libraries say of the machine."""
    outputs = [item for item in cell.outputs if item.get("name") != "stderr"]
    # A stream may arrive in one piece or in several.
    text = "".join(item.get("text", item["output_type"]) for item in outputs)
    return _VARYING.sub("...", text)


def agree(one: str, two: str) -> bool:
    """Whether the words are the same, and the numbers nearly."""
    if _NUMBER.sub("", one) != _NUMBER.sub("", two):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(two), strict=True)
    return all(float(a) == pytest.approx(float(b), abs=0.01) for a, b in pairs)


def pictures(cell) -> list[bytes]:
    """Decoded; those that are saved are made small, as PNG or JPEG."""
    shown = [data for item in cell.outputs for data in item.get("data", {}).items()]
    return [base64.b64decode(text) for kind, text in shown if kind.startswith("image/")]


def test_these_are_the_notebooks():
    assert sorted(path.stem for path in DEMOS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_saved_pictures_are_small_and_the_last_cell_is_one(name):
    notebook = nbformat.read(DEMOS / f"{name}.ipynb", as_version=4)
    cells = code_cells(notebook)
    assert pictures(cells[-1])
    assert max(len(one) for cell in cells for one in pictures(cell)) <= MOST_BYTES
    assert not any("execution" in cell.metadata for cell in cells)
    assert sum("not a medical device" in cell.source for cell in notebook.cells) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_and_prints_what_is_saved(name):
    if name == "your_pairs" and (missing := missing_weights()):
        pytest.skip(missing)
    saved = nbformat.read(DEMOS / f"{name}.ipynb", as_version=4)
    fresh = nbformat.read(DEMOS / f"{name}.ipynb", as_version=4)
    here = {"metadata": {"path": str(DEMOS)}}
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources=here).execute()
    for before, after in zip(code_cells(saved), code_cells(fresh), strict=True):
        one, two = printed(before), printed(after)
        if "measured" in before.metadata.get("tags", ()):
            # Training differs in its last digits from machine to machine, and so may a verdict.
            assert after.outputs or not before.outputs
        else:
            assert agree(one, two), f"saved:\n{one}\nnow:\n{two}"
    assert pictures(code_cells(fresh)[-1])
