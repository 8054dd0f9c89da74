"""A small synthetic corpus on disk, and a store of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus


@dataclass
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Result(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def mrrag():
    return run


@dataclass
class Corpus:
    folder: Path
    table: Path
    store: Path
    image: Path
    question: str


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    made = make_corpus(7, patients=24, queries=3, profiles=6)
    table = write_corpus(folder, made.studies)
    image = folder / "query.png"
    made.queries[0].study.image.save(image)
    store = folder / "store"
    result = run("ingest", table, "--store", store, "--towers", "phantom")
    assert result.code == 0, result.err
    return Corpus(folder, table, store, image, made.queries[0].question)
