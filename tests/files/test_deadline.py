"""A server that answers without an end, byte by byte, or says nonsense, is named."""

from __future__ import annotations

import time

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.protocol import PairStore
from tests.loopback import dripping


@pytest.mark.parametrize(
    ("pieces", "words"), [(60, "no Qdrant server answers"), (1, "sends no JSON")]
)
def test_a_qdrant_server_that_drips_or_says_nonsense_is_named(monkeypatch, pieces, words) -> None:
    engine = pytest.importorskip(
        "mrrag_llamaindex.store.llamaindex.qdrant.engine", reason="the extra qdrant"
    )
    monkeypatch.setattr(engine, "WHOLE_SECONDS", 0.3)

    with dripping(pieces, length=pieces) as url:
        began = time.monotonic()
        with pytest.raises(StoreError, match=words):
            PairStore.open(f"qdrant+{url}/chest")
        assert time.monotonic() - began < 2
