"""A worker and then the driver killed with -9: the next run goes on, and the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mrrag_llamaindex.store.protocol import PairStore
from tests.cluster.test_ingest import (
    assert_same,
    contents,
    table,  # noqa: F401
)
from tests.store.conftest import chroma_server  # noqa: F401

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]
SECONDS = 180
BY_RAY = ("--ray", "--workers", "2")


def start(*arguments):
    # One thread: the sums of several come in another order.
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mrrag_llamaindex.cli", *map(str, arguments)]
    return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)


def workers_of(driver):
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if process.name().startswith("ray::Worker"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def alive(processes):
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def until(true, driver=None):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        if driver is not None:
            assert driver.poll() is None, driver.stderr.read()
        time.sleep(0.01)


def killed_twice_and_resumed(arguments, progress):
    """Kill a worker when there is some progress, the driver at more, and run to the end."""
    driver = start(*arguments)
    until(lambda: progress() > 0, driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    working = workers_of(driver)
    working[0].send_signal(signal.SIGKILL)
    before = progress()
    until(lambda: progress() > before, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    at_kill = progress()
    until(lambda: not alive(working))
    ended = start(*arguments)
    said = ended.communicate(timeout=SECONDS)[1]
    assert ended.returncode == 0, said
    # Ray takes a minute to miss its driver.
    until(lambda: not alive(family))
    return at_kill, said


def lines(path: Path) -> int:
    shards = path.with_name(f"{path.name}.shards")
    files = [path, *shards.glob("*.jsonl")] if shards.exists() else [path]
    count = 0
    for file in files:
        try:
            count += max(0, file.read_bytes().count(b"\n") - 1)
        except FileNotFoundError:
            continue
    return count


def test_mining(tmp_path):
    common = ("mine", "--data", "phantom", "--limit", 160, "--model", "phantom", "--out")
    plain = start(*common, tmp_path / "plain.jsonl")
    assert plain.wait() == 0
    out = tmp_path / "spread.jsonl"
    at_kill, _ = killed_twice_and_resumed((*common, out, *BY_RAY), lambda: lines(out))
    assert 0 < at_kill < 160
    assert out.read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_ingest_into_a_server(table, tmp_path, chroma_server):  # noqa: F811
    common = ("ingest", table, "--towers", "phantom", "--batch-size", 1, "--store")
    plain = start(*common, tmp_path / "plain")
    assert plain.wait() == 0
    seen = []

    def stored():
        if not PairStore.exists(chroma_server):
            return 0
        with PairStore.open(chroma_server) as store:
            seen.append(len(store))
        return seen[-1]

    at_kill, _ = killed_twice_and_resumed((*common, chroma_server, *BY_RAY), stored)
    assert at_kill > 0
    assert seen == sorted(seen)
    assert_same(contents(tmp_path / "plain"), contents(chroma_server))
