"""What only a Chroma server can do wrong; the rest is conformance."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema


def test_store_on_a_server_is_opened_again(chroma_server, towers, units, pairs) -> None:
    with PairStore.create(chroma_server, StoreSchema(**towers), collection="again") as remote:
        remote.upsert(pairs(3), units(3), units(3))
    with PairStore.open(chroma_server, collection="again") as remote:
        assert len(remote) == 3
        assert remote.folder is None


def test_missing_collection_on_a_server_is_named(chroma_server) -> None:
    with pytest.raises(StoreError, match="no collection 'absent'"):
        PairStore.open(chroma_server, collection="absent")


@pytest.mark.slow
def test_large_write_stays_below_the_servers_limit(chroma_server, towers, pairs, units) -> None:
    # 60 MB of text; the server takes 40 MiB at once.
    report = "A long report. " * 3000
    made = pairs(1350, report=lambda i: report)
    with PairStore.create(chroma_server, StoreSchema(**towers), collection="long") as remote:
        remote.upsert(made, units(1350, seed=1), units(1350, seed=2))
        assert len(remote) == 1350
        assert remote.get(["p1349"])["p1349"].report == report


def test_server_that_went_away_is_a_store_error(chroma_server, towers, units) -> None:
    with PairStore.create(chroma_server, StoreSchema(**towers), collection="going") as remote:
        # The collection vanishes under the store, as when someone else deletes it.
        remote._connection._client.delete_collection("going")
        with pytest.raises(StoreError, match="querying"):
            remote.query(*units(2), FusionWeights(), k=1)
