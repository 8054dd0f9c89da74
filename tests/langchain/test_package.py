"""The bridge is an extra: without it the package works, and says what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mrrag_llamaindex.langchain

PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )


def test_import_loads_nothing():
    code = (
        "import sys, mrrag_llamaindex.langchain\n"
        "heavy = {'langchain_core', 'llama_index', 'torch', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert python(code).stdout.strip() == "[]"


def test_without_the_extra_a_name_says_what_to_install():
    code = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "import mrrag_llamaindex.langchain\n"
        "from mrrag_llamaindex.langchain import ChatMRRAG"
    )
    answer = python(code)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].endswith('pip install "mrrag-llamaindex[langchain]"')


def test_every_public_name_resolves_and_is_documented():
    for name in mrrag_llamaindex.langchain.__all__:
        assert getattr(mrrag_llamaindex.langchain, name).__doc__


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path):
    """All of its blocks, one after the other, as a reader would."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) > 4
    answer = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
