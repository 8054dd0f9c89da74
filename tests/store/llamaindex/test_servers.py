"""Every call to a server ends, in one line that names it, and nothing acknowledged is lost."""

from __future__ import annotations

import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mrrag_llamaindex.doctor.store_check import verify_store
from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.llamaindex.milvus import client as milvus
from mrrag_llamaindex.store.llamaindex.qdrant import engine as qdrant
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from tests.loopback import free_port

ANSWERS = {
    "html": (200, b"<html>router</html>"),
    "not found": (404, b"no"),
    "forbidden": (403, b"{}"),
    "error": (500, b"boom"),
    "list": (200, b"[]"),
    "cut off": (200, b"{"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(qdrant, "SECONDS", 2.0)
    monkeypatch.setattr(milvus, "SECONDS", 5.0)
    monkeypatch.setattr(milvus, "CONNECT_SECONDS", 2.0)


@contextmanager
def answering(mode: str) -> Iterator[str]:
    end = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            if mode == "silent":
                end.wait(30)
                return
            code, body = ANSWERS[mode]
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 (the names that http.server looks for)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}"
    finally:
        end.set()
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["qdrant", "milvus"])
@pytest.mark.parametrize("mode", [*ANSWERS, "silent"])
def test_what_answers_and_is_no_such_server_is_named_in_one_line(engine, mode):
    with answering(mode) as address:
        start = time.monotonic()
        with pytest.raises(StoreError) as caught:
            PairStore.open(f"{engine}+{address}")
    assert time.monotonic() - start < 10
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["qdrant", "milvus"])
def test_where_nothing_answers(engine):
    address = f"{engine}+http://127.0.0.1:{free_port()}"
    for ask in (PairStore.exists, PairStore.open):
        with pytest.raises(StoreError, match=f"{re.escape(address)}.* answers") as caught:
            ask(address)
        assert "\n" not in str(caught.value)


def test_a_refused_key_says_where_it_is_set():
    with answering("forbidden") as address, pytest.raises(StoreError, match="QDRANT_API_KEY"):
        PairStore.open(f"qdrant+{address}")


@contextmanager
def milvus_server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    program = Path(sys.executable).with_name("milvus-lite")
    process = subprocess.Popen(
        [program, "server", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None, "the server ended at once"
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait(20)


def once_it_answers(ask):
    """The client waits longer and longer before it connects again."""
    for _ in range(20):
        try:
            return ask()
        except StoreError:
            time.sleep(1)
    return ask()


@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing_that_it_has_acknowledged(tmp_path, pairs, units):
    port = free_port()
    place = f"milvus+http://127.0.0.1:{port}/chest"
    made, image, text = pairs(80), units(80, seed=1), units(80, seed=2)
    question = (*units(2, seed=3), FusionWeights(1, -0.5, 2), 10)
    with milvus_server(tmp_path / "data", port) as server:
        store = PairStore.create(place, StoreSchema("t@0", "", 8))
        for low in (0, 20, 40):
            rows = slice(low, low + 20)
            store.upsert(made[rows], image[rows], text[rows])
        before = store.query(*question)
        server.kill()
        server.wait(20)
        rows = slice(60, 80)
        for ask in (
            lambda: store.query(*question),
            lambda: store.upsert(made[rows], image[rows], text[rows]),
            lambda: len(store),
        ):
            start = time.monotonic()
            with pytest.raises(StoreError, match="no Milvus server answers") as caught:
                ask()
            assert time.monotonic() - start < 15
            assert "report number" not in str(caught.value)
    with milvus_server(tmp_path / "data", port), store:
        again = once_it_answers(lambda: store.query(*question))
        assert [hit.pair_id for hit in again] == [hit.pair_id for hit in before]
    with milvus_server(tmp_path / "data", port), PairStore.open(place) as store:
        assert store.pair_ids()[:60] == [f"p{i}" for i in range(60)]
        store.upsert(made, image, text)  # the ingest, run again
        assert len(store) == verify_store(store).pairs == 80
        store.delete([f"p{i}" for i in range(60, 80)])
        after = store.query(*question)
        assert [(hit.pair_id, hit.score) for hit in after] == [
            (hit.pair_id, hit.score) for hit in before
        ]
