"""The tables of the documentation are those that the registries print."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrrag_llamaindex.evaluation.data.readers.by_name import data_sets_markdown
from mrrag_llamaindex.evaluation.methods.registry import methods_markdown
from mrrag_llamaindex.evaluation.tasks.registry import tasks_markdown

DOCUMENTATION = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("table", "document"),
    [
        (methods_markdown, "evidence.md"),
        (data_sets_markdown, "evidence.md"),
        (tasks_markdown, "evaluation.md"),
    ],
)
def test_documentation_holds_the_table_of_the_registry(table, document):
    missing = f"paste what this function returns into docs/{document}"
    assert table() in (DOCUMENTATION / document).read_text(encoding="utf-8"), missing
