"""The tables of the documentation are those that the registries print."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrrag_llamaindex.evaluation.data.readers.by_name import data_sets_markdown
from mrrag_llamaindex.evaluation.methods.registry import methods_markdown

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "evidence.md"


@pytest.mark.parametrize("table", [methods_markdown, data_sets_markdown])
def test_documentation_holds_the_table_of_the_registry(table):
    missing = "paste what this function returns into docs/evidence.md"
    assert table() in DOCUMENTATION.read_text(encoding="utf-8"), missing
