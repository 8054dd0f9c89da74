"""The store behind a real Chroma server on the loopback address."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.protocol import PairStore


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    program = shutil.which("chroma", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the chroma program is not installed beside this Python")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    process = subprocess.Popen(
        [program, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/api/v2/heartbeat", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended at once"
                time.sleep(0.1)
        else:
            pytest.fail("the server did not answer within 20 s")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def test_store_on_a_server_gives_the_same_hits_as_one_in_memory(
    server, towers, units, pairs, store
) -> None:
    vectors = units(300, seed=1), units(300, seed=2)
    made = pairs(300, patient_id=lambda i: f"patient{i % 7}")
    store.upsert(made, *vectors)
    question = units(2, seed=3)
    with PairStore.create(server, **towers) as remote:
        remote.upsert(made, *vectors)
    with PairStore.open(server) as remote:
        assert len(remote) == 300
        exclude = Exclusion(patient_ids={"patient0"})
        ours = remote.query(*question, FusionWeights(1, -0.5, 2), 20, exclude)
        theirs = store.query(*question, FusionWeights(1, -0.5, 2), 20, exclude)
        # The server's JSON rounds distances to float32's digits; all else is equal.
        for hit, other in zip(ours, theirs, strict=True):
            assert hit.score == pytest.approx(other.score, abs=1e-6)
            assert replace(hit, score=0.0) == replace(other, score=0.0)
        with pytest.raises(StoreError, match="'clip@2'"):
            remote.check_towers("clip@2")


def test_missing_collection_on_a_server_is_named(server) -> None:
    with pytest.raises(StoreError, match="no collection 'absent'"):
        PairStore.open(server, collection="absent")


def test_large_write_stays_below_the_servers_limit(server, towers, pairs, units) -> None:
    # 60 MB of text; the server takes 40 MiB at once.
    report = "A long report. " * 3000
    made = pairs(1350, report=lambda i: report)
    with PairStore.create(server, collection="long", **towers) as remote:
        remote.upsert(made, units(1350, seed=1), units(1350, seed=2))
        assert len(remote) == 1350
        assert remote.get(["p1349"])["p1349"].report == report


def test_server_that_went_away_is_a_store_error(server, towers, units) -> None:
    with PairStore.create(server, collection="going", **towers) as remote:
        # The collection vanishes under the store, as when someone else deletes it.
        remote._connection._owned.delete_collection("going")
        with pytest.raises(StoreError, match="querying"):
            remote.query(*units(2), FusionWeights(), k=1)
