"""Every call to a server ends, in one line that names the server."""

from __future__ import annotations

import http.server
import json
import threading
import time

import pytest

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.chroma import server
from mrrag_llamaindex.store.protocol import PairStore


@pytest.fixture
def address(request, monkeypatch):
    """A server on loopback that fails in the way that the test names."""
    mode = request.param
    end = threading.Event()
    monkeypatch.setattr(server, "READ_SECONDS", 1.0)
    monkeypatch.setattr(server, "CONNECT_SECONDS", 1.0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            alive = "heartbeat" in self.path and mode != "silent"
            try:
                if mode == "html":
                    self.say(200, b"<html>router</html>")
                elif mode == "not found":
                    self.say(404, b"no")
                elif alive:
                    self.say(200, json.dumps({"nanosecond heartbeat": 1}).encode())
                elif mode in ("hang", "silent"):
                    end.wait(30)
                elif mode == "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "100000")
                    self.end_headers()
                    while not end.wait(0.2):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                else:
                    self.say(
                        *{"error": (500, b"boom"), "list": (200, b"[]")}.get(mode, (200, b"{"))
                    )
            except OSError:
                pass  # the client has gone

        def say(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 (the names that http.server looks for)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    end.set()
    running.shutdown()
    thread.join()
    running.server_close()


MODES = ["hang", "drip", "silent", "html", "not found", "error", "list", "cut off"]


@pytest.mark.slow
@pytest.mark.parametrize("address", MODES, indirect=True)
def test_opening_ends_in_one_line_that_names_the_server(address) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        PairStore.open(address)
    assert time.monotonic() - start < 8
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


def test_client_of_a_real_server_has_a_limit_for_each_call(chroma_server, towers) -> None:
    from mrrag_llamaindex.store.schema import StoreSchema

    with PairStore.create(chroma_server, StoreSchema(**towers), collection="limited") as store:
        timeout = store.collection._client._session.timeout
        assert (timeout.connect, timeout.read) == (server.CONNECT_SECONDS, server.READ_SECONDS)


@pytest.mark.parametrize(
    "url", ["http://a b:8000", "http:/host:1", "http://h\n:1", " http://h:1/x"]
)
def test_blanks_in_an_address_are_refused(url) -> None:
    with pytest.raises(StoreError, match="not a server address"):
        PairStore.open(url)
