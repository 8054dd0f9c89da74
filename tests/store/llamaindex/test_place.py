"""What a URL means, and what is no place for pairs."""

from __future__ import annotations

import os

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.llamaindex.place import Place
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema


@pytest.mark.parametrize(
    ("where", "url", "collection"),
    [
        ("qdrant+http://host", "http://host:6333", "pairs"),
        ("qdrant+https://host/chest", "https://host:443", "chest"),
        ("milvus+http://host:1/chest/", "http://host:1", "chest"),
        ("milvus+http://[::1]", "http://[::1]:19530", "pairs"),
    ],
)
def test_addresses_of_servers(where, url, collection):
    place = Place.parse(where, "pairs")
    assert (place.url, place.path, place.collection) == (url, None, collection)


def test_local_places(tmp_path):
    assert Place.parse("qdrant::memory:", "pairs").path is None
    assert Place.parse(f"qdrant:{tmp_path}/q", "pairs").path == tmp_path / "q"
    assert Place.parse(f"milvus://{tmp_path}/m.db", "pairs").path == tmp_path / "m.db"


@pytest.mark.parametrize(
    "where",
    [
        "qdrant:", "milvus::memory:", "milvus:folder", "qdrant+http:", "qdrant+http://", "qdrant+ftp://h",
        "qdrant+http://h:x", "qdrant+http://h/a/b", "qdrant+http://h?x=1", "milvus+http://a b",
        "qdrant+http://key@h", "qdrant+http://h/x!", "milvus+http://h/a-b.c",
    ],
)  # fmt: skip
def test_what_is_none_is_refused_without_a_connection(where):
    for ask in (PairStore.open, PairStore.exists):
        with pytest.raises(StoreError):
            ask(where)


def test_a_key_in_an_address_is_not_repeated():
    with pytest.raises(StoreError) as caught:
        PairStore.open("qdrant+http://user:secret@host")
    assert "secret" not in str(caught.value)
    assert "QDRANT_API_KEY" in str(caught.value)


def test_two_names_for_a_collection_are_refused():
    assert Place.parse("qdrant+http://h/chest", "chest").collection == "chest"
    with pytest.raises(StoreError, match=r"'chest'.*'hands'"):
        PairStore.open("qdrant+http://h/chest", collection="hands")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["qdrant:{}/q", "milvus:{}/m.db"])
def test_looking_makes_nothing_and_what_is_made_is_opened_again(where, tmp_path, pairs, units):
    place = where.format(tmp_path)
    assert not PairStore.exists(place)
    with pytest.raises(StoreError, match="mrrag ingest"):
        PairStore.open(place)
    assert list(tmp_path.iterdir()) == []
    schema = StoreSchema("t@0", "phantom", 8)
    with PairStore.create(place, schema) as store:
        (folder,) = tmp_path.iterdir()
        assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700
        store.upsert(pairs(5), units(5), units(5), fingerprints=[f"f{i}" for i in range(5)])
    with pytest.raises(StoreError, match="exists already"):
        PairStore.create(place, schema)
    with PairStore.open_or_create(place, schema) as store:
        assert store.pair_ids() == [f"p{i}" for i in range(5)]
        assert store.fingerprints(["p3"])["p3"].digest == "f3"
    with pytest.raises(StoreError, match="was made with towers"):
        PairStore.open_or_create(place, StoreSchema("u@1", "", 8))
