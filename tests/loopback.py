"""Ports of the loopback address for servers that the tests start, and one that drips."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def free_port() -> int:
    """Return a port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def dripping(pieces: int, *, length: int, status: int | None = 200) -> Iterator[str]:
    """URL of a server that answers anything byte by byte, 20 a second.

    Parameters
    ----------
    pieces
        Bytes that it sends before it breaks off.
    length
        Bytes that it promises.
    status
        None: it sends nothing, not even a status.
    """

    class Dripping(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(length))
                self.end_headers()
            with suppress(OSError):  # whoever asked has left
                for _ in range(pieces):
                    self.wfile.write(b" " if status else b"")
                    time.sleep(0.05)

        do_GET = do_POST = answer  # noqa: N815 (the names that http.server looks for)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as stuck:
        stuck.daemon_threads, stuck.block_on_close = True, False
        threading.Thread(target=stuck.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{stuck.server_port}"
        finally:
            stuck.shutdown()
