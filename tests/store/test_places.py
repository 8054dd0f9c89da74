"""Addresses hold passwords: no message repeats one, however it was mistyped."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.store.copying import refuse_one_place
from mrrag_llamaindex.store.places import without_password
from mrrag_llamaindex.store.protocol import PairStore

WRONG = [
    "{}://user:secret@host:99999/a/b",
    "{}://user:sec/secret@host/x",
    "{}://user:sec@secret@host/a/b",
    "{}://user:sec?secret@host/a/b",
    "{}://user:sec#secret@host/a/b",
    "{}://host/a/b?password=secret",
    "{}://host/a/b?password=a@secret",
]
KINDS = [
    "qdrant", "qdrant+http", "qdrant+https", "qdrant+grpc",
    "milvus", "milvus+http", "http", "https", "mysql",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_address_is_refused_without_its_password(kind, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ask in (PairStore.open, PairStore.exists):
        with pytest.raises(MRRAGError) as caught:
            ask(wrong.format(kind))
        assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://user:sec@secret@host/db",
        "postgresql://user:2024/secret@host/db",
        "postgresql://user:sec#secret@host/db",
        "postgresql://user:secret@host:x/db",
        "postgresql://user:secret@host/db?unknown=secret",
        "postgresql:user:secret@host/db",
    ],
)
def test_a_postgresql_address_that_libpq_reads_otherwise_is_refused(wrong):
    pytest.importorskip("psycopg")
    with pytest.raises(MRRAGError, match="not usable") as caught:
        PairStore.open(wrong)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_shown_of_an_address_has_no_password(wrong):
    assert "secret" not in without_password(wrong.format("postgresql"))
    with pytest.raises(MRRAGError) as caught:
        refuse_one_place(wrong.format("postgresql"), wrong.format("postgresql"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("where", ["qdrant://localhost:6333", "qdrant:http://localhost:6333"])
def test_a_host_is_not_taken_for_a_folder(where):
    with pytest.raises(MRRAGError, match=r"qdrant\+http://host:6333"):
        PairStore.open(where)


@pytest.mark.parametrize("place", ["memory", "numpy", "qdrant::memory:"])
def test_a_command_writes_nothing_that_would_end_with_it(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("pair_id,image,report\na,,Clear lungs.\n")
    ingest = ["ingest", "pairs.csv", "--towers", "phantom", "--store", place]
    for command in (ingest, [*ingest, "--ray"], ["store", "copy", "source", place]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2
        assert f"the store {place} would end with this command" in done.stderr
