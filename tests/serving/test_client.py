"""A client gives up a server that sends without an end, or breaks off."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time

import pytest

from mrrag_llamaindex.serving.client import Client, ServerError


@pytest.mark.parametrize(
    ("pieces", "words"), [(40, "did not answer within 0.3 seconds"), (2, "cannot be reached")]
)
def test_a_server_that_drips_or_breaks_off_is_given_up(pieces: int, words: str) -> None:
    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked has left
                for _ in range(pieces):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as stuck:
        stuck.daemon_threads, stuck.block_on_close = True, False
        threading.Thread(target=stuck.serve_forever, args=(0.02,), daemon=True).start()
        client, began = Client(f"http://127.0.0.1:{stuck.server_port}", seconds=0.3), time.time()
        with pytest.raises(ServerError, match=words):
            client.ask("Is there a nodule?", b"film", {})
        assert time.time() - began < 1
        stuck.shutdown()
