"""The blocks of `docs/llamaindex.md` run, and what it says of markers is what the tests accept."""

from __future__ import annotations

import importlib.util
import re

import pytest

from mrrag_llamaindex import MRRAGIndex
from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus
from tests.integration.matrix.readers import ACCEPTED
from tests.integration.matrix.test_catalogue import DOCUMENT

TEXT = DOCUMENT.read_text(encoding="utf-8")
SETUP = TEXT.partition("```python\n")[2].partition("```")[0]


def blocks() -> list[tuple[str, str]]:
    sections = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    pairs = zip(sections[1::2], sections[2::2], strict=True)
    return [
        (name, block)
        for name, text in pairs
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a store of phantom pairs, and a film."""
    folder = tmp_path_factory.mktemp("app")
    corpus = make_corpus(seed=5, patients=12, queries=1, profiles=4)
    (folder / "images").mkdir()
    pairs = as_pairs(corpus.studies, folder / "images")
    MRRAGIndex.from_pairs(pairs, towers="phantom", persist_dir=folder / "store")
    corpus.queries[0].study.image.save(folder / "cxr.png")
    return folder


@pytest.mark.parametrize(("name", "block"), blocks(), ids=[name for name, _ in blocks()])
def test_block_runs(folder, monkeypatch, name, block):
    if "import FastAPI" in block and not importlib.util.find_spec("fastapi"):
        pytest.skip("fastapi is not installed")
    monkeypatch.chdir(folder)
    space: dict[str, object] = {"__name__": "app"}
    exec(compile(SETUP, "setup", "exec"), space)
    exec(compile(block, name, "exec"), space)
    if "work" in space:
        answer, trace = space["work"](space["question"], "cxr.png")
        assert answer.strip()
        assert trace[0].steering.applied
    if "text" in space:
        assert space["text"].strip()
    if "app" in space:
        served(space["app"], (folder / "cxr.png").read_bytes(), space["question"])


def served(app, film, question):
    from fastapi.testclient import TestClient

    client = TestClient(app)
    answer = client.post("/ask", params={"question": question}, content=film)
    assert answer.status_code == 200
    assert answer.text.strip()
    answer = client.post("/ask", params={"question": question}, content=b"no film")
    assert answer.status_code == 422
    assert "image" in answer.json()["error"]


def test_document_names_every_record_that_holds_markers():
    section = TEXT.partition("Markers hold a random number")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([^`]+)`", section)) - {"MRRAGLLaVA"} == set(ACCEPTED)
