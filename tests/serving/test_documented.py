"""What docs/serving.md shows is run as it stands there, but for the address."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, word: str) -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for block in found if word in block]


@pytest.fixture
def folder(tmp_path, corpus, monkeypatch):
    (tmp_path / "cxr.png").write_bytes(corpus.images[0].read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("block", "sources", "explained"),
    list(zip(blocks("bash", "curl"), [6, 4], [False, True], strict=True)),
    ids=["with a token", "with options"],
)
def test_curl(server, block, sources, explained):
    result = subprocess.run(
        ["bash", "-ec", block.replace(ADDRESS, server)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    answer = json.loads(result.stdout)
    assert len(answer["sources"]) == sources
    assert all(("influence" in row) == explained for row in answer["sources"])


@pytest.mark.usefixtures("folder")
def test_the_client_of_openai(server):
    (block,) = blocks("python", "openai")
    names: dict[str, object] = {}
    exec(compile(block.replace(ADDRESS, server), str(DOCUMENT), "exec"), names)
    answer = names["answer"]
    assert "**Sources**" in answer.choices[0].message.content
    assert len(answer.model_extra["mrrag"]["sources"]) == 4
