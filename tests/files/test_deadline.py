"""A server that answers without an end, byte by byte, or says nonsense, is named."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.protocol import PairStore


@pytest.mark.parametrize(
    ("pieces", "words"), [(60, "no Qdrant server answers"), (1, "sends no JSON")]
)
def test_a_qdrant_server_that_drips_or_says_nonsense_is_named(monkeypatch, pieces, words) -> None:
    engine = pytest.importorskip(
        "mrrag_llamaindex.store.llamaindex.qdrant.engine", reason="the extra qdrant"
    )
    monkeypatch.setattr(engine, "WHOLE_SECONDS", 0.3)

    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(pieces))
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked has left
                for _ in range(pieces):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as stuck:
        stuck.daemon_threads, stuck.block_on_close = True, False
        threading.Thread(target=stuck.serve_forever, args=(0.02,), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(StoreError, match=words):
            PairStore.open(f"qdrant+http://127.0.0.1:{stuck.server_port}/chest")
        assert time.monotonic() - began < 2
        stuck.shutdown()
