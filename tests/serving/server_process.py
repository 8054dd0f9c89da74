"""`mrrag serve` as it is deployed: a process of its own, reached over loopback."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.loopback import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes
    ----------
    port : int
    pid : int
    log : pathlib.Path
        What it has written, standard output and error.
    """

    port: int
    pid: int
    log: Path

    def get(self, path: str) -> str:
        """Return the body of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200, (path, answer.status)
            return answer.read().decode()
        finally:
            connection.close()


@contextmanager
def serving(folder: Path, *options: str, seconds: float = 300) -> Iterator[Served]:
    """Start ``mrrag serve`` with these options; it is gone when the block ends."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    command = [sys.executable, "-m", "mrrag_llamaindex.cli", "serve", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    served = Served(port, process.pid, log)
    try:
        _wait(served, process, time.monotonic() + seconds)
        yield served
    finally:
        process.terminate()
        try:
            assert process.wait(30) == 0, log.read_text()[-2000:]
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait(served: Served, process: subprocess.Popen[bytes], end: float) -> None:
    while True:
        try:
            served.get("/healthz")
        except OSError:
            pass
        else:
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the server did not start: {served.log.read_text()[-2000:]}")
        time.sleep(0.2)
