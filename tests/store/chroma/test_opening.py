"""Opening what is there, refusing what is not, and never making anything by looking."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import chromadb
import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import HNSWSettings, StoreSchema


def listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(p), p.read_bytes()) for p in folder.rglob("*") if p.is_file())


def test_store_remembers_its_towers_dimension_and_index(tmp_path, towers) -> None:
    settings = HNSWSettings(max_neighbors=8, ef_construction=50, ef_search=60)
    towers["towers_source"] = "phantom"
    PairStore.create(tmp_path / "store", StoreSchema(hnsw=settings, **towers)).close()
    with PairStore.open(tmp_path / "store") as store:
        assert (store.towers_identity, store.towers_source, store.dimension) == (
            "toy@1",
            "phantom",
            8,
        )
        assert store.collection.metadata["mrrag_ef_search"] == 60
        hnsw = store.collection.configuration_json["hnsw"]
        assert (hnsw["space"], hnsw["max_neighbors"], hnsw["ef_search"]) == ("ip", 8, 60)


def test_defaults_reach_the_index(store) -> None:
    hnsw = store.collection.configuration_json["hnsw"]
    assert (hnsw["max_neighbors"], hnsw["ef_construction"], hnsw["ef_search"]) == (32, 200, 400)


def test_pairs_survive_closing_and_opening(tmp_path, towers, units, pairs) -> None:
    with PairStore.create(tmp_path / "s", StoreSchema(**towers)) as store:
        store.upsert(pairs(50), units(50, seed=1), units(50, seed=2))
        before = store.query(*units(2, seed=3), FusionWeights(), k=5)
    with PairStore.open(str(tmp_path / "s")) as store:
        assert store.query(*units(2, seed=3), FusionWeights(), k=5) == before


def test_other_towers_are_refused_naming_both(store) -> None:
    store.check_towers("toy@1")
    with pytest.raises(StoreError, match=r"'toy@1'.*'clip@2'"):
        store.check_towers("clip@2")


def test_open_or_create_checks_the_towers_of_an_existing_store(tmp_path, towers) -> None:
    PairStore.open_or_create(tmp_path / "s", StoreSchema(**towers)).close()
    with PairStore.open_or_create(tmp_path / "s", StoreSchema(**towers)) as store:
        assert len(store) == 0
    towers["towers_identity"] = "clip@2"
    with pytest.raises(StoreError, match="towers"):
        PairStore.open_or_create(tmp_path / "s", StoreSchema(**towers))
    with PairStore.open_or_create(
        tmp_path / "s", StoreSchema(**towers), collection="other"
    ) as other:
        assert other.towers_identity == "clip@2"


def test_creating_twice_is_refused(tmp_path, towers) -> None:
    PairStore.create(tmp_path / "s", StoreSchema(**towers)).close()
    with pytest.raises(StoreError, match="already holds"):
        PairStore.create(tmp_path / "s", StoreSchema(**towers))


def test_looking_where_no_store_is_makes_nothing(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("garbage", "empty", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "garbage" / "chroma.sqlite3").write_bytes(b"not a database" * 1000)
    (tmp_path / "empty" / "chroma.sqlite3").touch()
    with sqlite3.connect(tmp_path / "other" / "chroma.sqlite3") as database:
        database.execute("CREATE TABLE mine (x)")
    before = listing(tmp_path)
    for name, said in [
        ("absent", "does not exist"),
        ("absent/deeper", "does not exist"),
        ("file", "is a file"),
        ("photos", "not a store"),
        ("garbage", "not a store"),
        ("empty", "not a store"),
        ("other", "not a store"),
    ]:
        with pytest.raises(StoreError, match=said):
            PairStore.open(tmp_path / name)
    assert listing(tmp_path) == before
    assert not (tmp_path / "absent").exists()


def test_folder_deleted_under_an_open_store_is_reported_not_revived(
    tmp_path, towers, units, pairs
) -> None:
    # As in a notebook: `!rm -rf store`, and the cell that makes it is run again.
    old = PairStore.create(tmp_path / "s", StoreSchema(**towers))
    old.upsert(pairs(2), units(2), units(2))
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreError, match="deleted while this process has it open"):
        PairStore.open_or_create(tmp_path / "s", StoreSchema(**towers))
    old.close()
    with PairStore.open_or_create(tmp_path / "s", StoreSchema(**towers)) as new:
        new.upsert(pairs(3), units(3), units(3))
        assert len(new) == 3


def test_missing_collection_names_those_present(tmp_path, towers) -> None:
    PairStore.create(tmp_path / "s", StoreSchema(**towers), collection="train").close()
    with pytest.raises(StoreError, match=r"no collection 'pairs'; it has: train"):
        PairStore.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["ab", "a b", "-abc", "abc-", "", "a" * 513, "näme", None])
def test_bad_collection_name_is_refused_before_anything_is_made(tmp_path, towers, name) -> None:
    with pytest.raises(StoreError, match="collection name"):
        PairStore.create(tmp_path / "s", StoreSchema(**towers), collection=name)
    with pytest.raises(StoreError, match="collection name"):
        PairStore.open(tmp_path / "s", collection=name)
    assert not (tmp_path / "s").exists()


def test_collections_that_are_no_pair_stores_are_refused(tmp_path, towers) -> None:
    client = chromadb.PersistentClient(str(tmp_path / "s"))
    schema = {"mrrag_schema": 2, "mrrag_towers_identity": "toy@1", "mrrag_towers_source": "",
              "mrrag_dimension": 8}  # fmt: skip
    ip = {"hnsw": {"space": "ip"}}
    client.create_collection("plain", embedding_function=None)
    client.create_collection("cosine", metadata=schema, configuration={"hnsw": {"space": "cosine"}},
                             embedding_function=None)  # fmt: skip
    wide = client.create_collection("wide", metadata=schema, configuration=ip,
                                    embedding_function=None)  # fmt: skip
    wide.add(ids=["a"], embeddings=[[1.0] * 20])
    client.create_collection("newer", metadata={**schema, "mrrag_schema": 99}, configuration=ip,
                             embedding_function=None)  # fmt: skip
    client.create_collection("torn", metadata={"mrrag_schema": 2}, configuration=ip,
                             embedding_function=None)  # fmt: skip
    for name, said in [
        ("plain", "not a pair store"),
        ("cosine", "space 'cosine'"),
        ("wide", "length 20.*give 16"),
        ("newer", "version 99"),
        ("torn", "damaged metadata"),
    ]:
        # By the client itself, and by the folder that it has open with other settings.
        for where in (client, tmp_path / "s"):
            with pytest.raises(StoreError, match=said):
                PairStore.open(where, collection=name)
    client.close()


def test_stores_in_memory_do_not_see_each_other(towers, units, pairs) -> None:
    shared = chromadb.EphemeralClient()
    with (
        PairStore.create("memory", StoreSchema(**towers)) as a,
        PairStore.create("memory", StoreSchema(**towers)) as b,
    ):
        a.upsert(pairs(3), units(3), units(3))
        assert (len(a), len(b)) == (3, 0)
        assert b.query(*units(2), FusionWeights(), k=3) == []
        assert "pairs" not in {item.name for item in shared.list_collections()}
        chromadb.EphemeralClient().close()  # an application's own client is not disturbed
    shared.close()


def test_memory_cannot_be_opened_but_a_given_client_can(towers, units, pairs) -> None:
    with pytest.raises(StoreError, match="in memory cannot be opened"):
        PairStore.open("memory")
    client = chromadb.EphemeralClient()
    try:
        store = PairStore.create(client, StoreSchema(**towers), collection="mine-1")
        store.upsert(pairs(2), units(2), units(2))
        store.close()  # closes the store, not a client that is not its own
        assert len(PairStore.open(client, collection="mine-1")) == 2
    finally:
        client.delete_collection("mine-1")
        client.close()


@pytest.mark.parametrize("where", [3, None, ["a"], ""])
def test_place_that_is_none_is_refused(where) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened from|is empty"):
        PairStore.open(where)


@pytest.mark.parametrize("field", ["max_neighbors", "ef_construction", "ef_search"])
@pytest.mark.parametrize("value", [0, 1, -5, 1.5, True, "9"])
def test_index_settings_are_validated(field, value) -> None:
    with pytest.raises(ValueError, match=field):
        HNSWSettings(**{field: value})


@pytest.mark.parametrize(
    "change", [{"towers_identity": ""}, {"towers_source": None}, {"dimension": 0}]
)
def test_store_without_usable_towers_is_refused(towers, change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        PairStore.create("memory", StoreSchema(**{**towers, **change}))


@pytest.mark.slow
def test_second_writing_process_is_refused_until_the_first_has_ended(
    tmp_path, towers, units, pairs
) -> None:
    with PairStore.create(tmp_path / "s", StoreSchema(**towers)) as store:
        store.upsert(pairs(2), units(2), units(2))
    script = textwrap.dedent(f"""
        import sys
        import numpy as np
        from mrrag_llamaindex.store.pair import Pair
        from mrrag_llamaindex.store.protocol import PairStore
        store = PairStore.open({str(tmp_path / "s")!r})
        one = np.eye(8, dtype=np.float32)[:1]
        store.upsert([Pair("a.png", "text", "other")], one, one)
        print("written", flush=True)
        sys.stdin.read()
    """)
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline().strip() == "written"
        with PairStore.open(tmp_path / "s") as store:
            assert len(store) == 3  # reading is allowed
            with pytest.raises(StoreError, match="another process is writing"):
                store.upsert(pairs(2), units(2), units(2))
            other.kill()
            other.wait(timeout=10)
            store.upsert(pairs(2), units(2), units(2))
            # Within one process, several stores may write.
            with PairStore.open(tmp_path / "s") as second:
                second.upsert(pairs(2), units(2), units(2))
    finally:
        other.kill()
        other.wait(timeout=10)
        other.stdin.close()
        other.stdout.close()


def test_unreachable_server_is_reported_at_once() -> None:
    start = time.perf_counter()
    with pytest.raises(StoreError, match=r"no Chroma server answers at http://127.0.0.1:9 "):
        PairStore.open("http://127.0.0.1:9")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "url", ["http://", "http://h:99999", "http://h/path", "http://u:p@h:1", "https://h?x=1"]
)
def test_malformed_address_is_refused(url) -> None:
    with pytest.raises(StoreError, match="not a server address"):
        PairStore.open(url)


@pytest.mark.slow
def test_more_pairs_than_chroma_takes_at_once_are_stored_at_once(store, units, pairs) -> None:
    count = 6000
    store.upsert(pairs(count, report=lambda i: "r"), units(count), units(count, seed=1))
    assert len(store) == count
    assert len(store.get([f"p{i}" for i in range(count)])) == count
    assert store.pair_ids()[:2] == ["p0", "p1"]
