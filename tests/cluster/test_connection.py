"""A cluster that is not there is one clear error, soon; without Ray nothing of it is touched."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
import time

import pytest

from mrrag_llamaindex.cluster import connection
from mrrag_llamaindex.cluster.connection import connected
from mrrag_llamaindex.cluster.resources import share_of
from mrrag_llamaindex.errors import ClusterError


def refused(address: str) -> str:
    with pytest.raises(ClusterError) as caught, connected(address):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def apart(monkeypatch):
    """As in a process that has not been connected yet."""
    module = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(module, "is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:x", "ray://head:10001", ""])
def test_what_is_no_address_is_refused_by_name(apart, address):
    assert f"{address!r} is not the address" in refused(address)


def test_a_port_where_nobody_listens_is_named_at_once(apart):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    assert f"no Ray cluster answers at {address}" in refused(address)
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_server_of_another_kind_is_not_waited_for(apart, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 3.0)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        started = time.monotonic()
        assert f"no Ray cluster answers at {address}" in refused(address)
        assert time.monotonic() - started < 15
        server.shutdown()


def test_a_machine_without_a_running_cluster_says_so(apart, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "no Ray cluster can be used at auto" in refused("auto")


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "mrrag-llamaindex[ray]"' in refused("local")


def test_nothing_of_ray_is_imported_before_it_is_asked_for():
    code = (
        "import sys, mrrag_llamaindex.commands.app, mrrag_llamaindex.cluster.sharded_log\n"
        "import mrrag_llamaindex.store.ingest.workers\n"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("resources", "options", "words"),
    [
        ({"CPU": 8.0}, (None, 1.0, "auto"), "0 GPUs"),
        ({"CPU": 8.0, "GPU": 2.0}, (3, None, "auto"), "2 GPUs, and 3 workers with 1 each"),
        ({}, (None, None, "cpu"), "no processor"),
    ],
)
def test_more_processors_than_there_are_is_refused(resources, options, words):
    with pytest.raises(ClusterError, match=words):
        share_of(resources, *options)


def test_a_share_of_a_gpu_makes_as_many_workers_as_fit():
    assert share_of({"CPU": 32.0, "GPU": 2.0}, None, 0.5, "auto").workers == 4
    assert share_of({"CPU": 32.0, "GPU": 2.0}, None, None, "cpu").gpus == 0
