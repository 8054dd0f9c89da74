"""The back ends that every test of conformance runs on: one row for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrrag_llamaindex.store.backends import Where
from tests.loopback import free_port

PLACES: dict[str, Callable[[pytest.FixtureRequest], Where]] = {
    "numpy": lambda request: "numpy",
    "chroma in memory": lambda request: "memory",
    "chroma in a folder": lambda request: request.getfixturevalue("tmp_path") / "store",
    "chroma server": lambda request: request.getfixturevalue("chroma_server"),
    "postgres": lambda request: request.getfixturevalue("postgres").url(),
    "qdrant in memory": lambda request: "qdrant::memory:",
    "milvus in a folder": lambda request: f"milvus:{request.getfixturevalue('tmp_path')}/store.db",
}

for engine in ("qdrant", "milvus"):
    if address := os.environ.get(
        f"MRRAG_TEST_{engine.upper()}"
    ):  # a server of one's own, http://...
        PLACES[f"{engine} server"] = lambda request, place=f"{engine}+{address}": place


# Each file of Milvus Lite starts a server of its own, for half a second.
SLOW = {"milvus in a folder"}


@pytest.fixture(
    params=[
        pytest.param(place, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, place in PLACES.items()
    ]
)
def place(request: pytest.FixtureRequest) -> Any:
    """Where a store may be made, once for each back end."""
    return request.param(request)


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server on the loopback address."""
    program = shutil.which("chroma", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the chroma program is not installed beside this Python")
    port = free_port()
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
