"""A deleted report is gone from the disk, and the store goes on as before."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.chroma import erasure
from mrrag_llamaindex.store.chroma.erasure import index_saves
from mrrag_llamaindex.store.chroma.integrity import SQLITE_FILE
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

DIMENSION = 8


def vectors(number: int) -> np.ndarray:
    rows = np.random.default_rng(number).normal(size=(number, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def secret(number: int) -> str:
    return f"secretreport{number:04d}"


@pytest.fixture
def store(tmp_path):
    store = PairStore.create(tmp_path / "store", StoreSchema("t@0", "t", DIMENSION))
    pairs = [
        Pair(b"", secret(n), f"p{n}", f"patient{n}", {"note": f"label{secret(n)}"})
        for n in range(40)
    ]
    store.upsert(pairs, vectors(40), vectors(40))
    yield store
    store.close()


def on_disk(store: PairStore) -> set[int]:
    content = b"".join(file.read_bytes() for file in store.folder.rglob("*") if file.is_file())
    return {n for n in range(40) if secret(n).encode() in content}


def test_a_deleted_report_is_gone_from_every_file(store):
    assert on_disk(store) == set(range(40))
    store.delete([f"p{n}" for n in range(0, 40, 2)])
    left = set(range(1, 40, 2))
    assert on_disk(store) == left
    assert {int(pair_id[1:]) for pair_id in store.pair_ids()} == left


@pytest.mark.slow
def test_the_command_deletes_a_patient_and_no_other(store):
    place = str(store.folder)
    store.upsert([Pair(b"", "new", "second", "patient3")], vectors(1), vectors(1))
    store.close()

    def run(*words):
        return CliRunner().invoke(app, ["store", "delete", place, *words])

    for words, reason in (
        ([], "nothing to delete is named"),
        (["--patient", "patient3", "--patient", "patient"], "no pair of patient 'patient'"),
        (["--pair", "patient3"], "no pair 'patient3'"),
    ):
        refused = run(*words)
        assert refused.exit_code == 2
        assert reason in refused.stderr
    shown = run("--patient", "patient3", "--dry-run")
    assert shown.stdout.split()[:2] == ["p3", "second"]
    said = run("--patient", "patient3", "--pair", "p5", "--json").stdout
    assert json.loads(said) == {
        "store": place,
        "pair_ids": ["p3", "p5", "second"],
        "deleted": 3,
        "pairs": 38,
    }
    with PairStore.open(place) as left:
        assert on_disk(left) == set(range(40)) - {3, 5}


def test_what_is_left_answers_as_before_also_when_opened_again(store):
    store.delete(["p0", "p1"])
    folder, before = store.folder, store.get(["p7"])["p7"]
    store.upsert([Pair(b"", "new", "p0")], vectors(1), vectors(1))
    store.close()
    with PairStore.open(folder) as again:
        assert len(again) == 39
        assert again.get(["p0"])["p0"].report == "new"
        after = again.get(["p7"])["p7"]
        assert after.report == before.report
        assert np.array_equal(after.vector, before.vector)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "weight"), [(5, 1.0), (5, -0.1), (40, 1.0)])
def test_what_another_process_deletes_is_found_no_more(store, k, weight):
    """A server has searched before, and its index is in its memory."""
    query, weights = vectors(40)[0], FusionWeights(1.0, 1.0, weight)
    store.close()  # whoever has written holds the store for writing until then
    store = PairStore.open(store.folder)
    before = [hit.pair_id for hit in store.query(query, query, weights, k=40)]
    gone = before[:7:2]
    delete = (
        "import sys; from mrrag_llamaindex.store.protocol import PairStore; "
        "PairStore.open(sys.argv[1]).delete(sys.argv[2:])"
    )
    # What it deletes may stay in files that this process holds open, of which it complains.
    subprocess.run([sys.executable, "-c", delete, str(store.folder), *gone], timeout=60)
    assert len(store) == 36
    hits = store.query(query, query, weights, k=k)
    assert {hit.pair_id for hit in hits}.isdisjoint(gone)
    assert len(hits) == min(k, 36)
    assert all(hit.report and hit.patient_id for hit in hits)
    store.close()


def test_a_database_in_use_elsewhere_says_what_is_left(store, monkeypatch):
    monkeypatch.setattr(erasure, "_SECONDS", 0.1)
    other = sqlite3.connect(store.folder / SQLITE_FILE, isolation_level=None)
    collection_id = str(store.collection.id)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="may still be"):
        erasure.erase(store.folder / SQLITE_FILE, collection_id, ["p0"])
    other.execute("ROLLBACK")
    other.close()
    erasure.erase(store.folder / SQLITE_FILE, collection_id, ["p0"])


def test_a_replaced_report_is_gone_from_every_file(store):
    store.upsert([Pair(b"", "new", "p0", "patient0")], vectors(1), vectors(1))
    assert on_disk(store) == set(range(1, 40))
    store.upsert([Pair(b"", "new", "p1", "patient1")], vectors(1), vectors(1), erase=False)
    assert 1 in on_disk(store)
    store.erase_replaced()
    assert on_disk(store) == set(range(2, 40))
    assert store.get(["p1"])["p1"].report == "new"


@pytest.mark.slow
def test_questions_are_answered_while_reports_are_erased(store):
    """Chroma's own SQLite is reading then, with locks that Python's does not see."""
    pairs = [Pair(b"", f"report {n} " + "x" * 2000, f"q{n}", f"other{n}") for n in range(2000)]
    store.upsert(pairs, vectors(2000), vectors(2000))
    ended = threading.Event()

    def ask() -> int:
        count = 0
        while not ended.is_set():
            hits = store.query(vectors(1)[0], vectors(1)[0], FusionWeights(), 5)
            assert all(hit.report.strip() for hit in hits)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(ask) for _ in range(2)]
        try:
            for number in range(10):
                store.delete([f"p{number}"])
        finally:
            ended.set()
        assert all(reader.result(timeout=60) for reader in readers)
    assert not on_disk(store) & set(range(10))


def test_an_opening_that_saves_the_index_leaves_nothing_either(store):
    folder = store.folder
    store.delete(["p0"])
    store.close()
    saved = index_saves(folder)
    with PairStore.open(folder):
        assert index_saves(folder) != saved  # it went through the log
        (header,) = folder.glob("*/header.bin")
        _, _, _, count, size = erasure._HEADER.unpack(header.read_bytes()[:36])
        content = header.with_name("data_level0.bin").read_bytes()
        assert len(content) > count * size
        assert not any(content[count * size :])


@pytest.mark.slow
def test_no_save_of_an_index_leaves_what_memory_held(tmp_path):
    """Chroma saves every thousand vectors or so, with bytes that nobody has written."""
    store = PairStore.create(tmp_path / "store", StoreSchema("t@0", "t", DIMENSION))
    saves = []
    for number in range(6):
        held = [secret(n) * 200 for n in range(500)]  # what lies in memory then
        del held
        pairs = [Pair(b"", f"{number}-{n}", f"p{number}-{n}") for n in range(600)]
        store.upsert(pairs, vectors(600), vectors(600))
        (file,) = store.folder.glob("*/length.bin")
        assert not any(file.read_bytes()), number
        saves.append(file.stat().st_size)
    assert len(set(saves)) > 2
    hits = store.query(vectors(600)[7], None, FusionWeights(), 3)
    store.close()
    with PairStore.open(tmp_path / "store") as again:
        assert again.query(vectors(600)[7], None, FusionWeights(), 3) == hits
