"""The examples of the docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mrrag_llamaindex

PACKAGE = Path(mrrag_llamaindex.__file__).parent
FILES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
WITH_EXAMPLES = [
    ".".join(file.with_suffix("").parts)
    for file in FILES
    if ">>> " in (PACKAGE.parent / file).read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
