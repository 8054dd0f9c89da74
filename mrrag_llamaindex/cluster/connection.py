"""A Ray cluster: one that is running, or one on this machine for as long as the work takes.

Nothing of Ray is imported before it is asked for. Ray reports to nobody, starts no dashboard page,
and prints nothing of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from mrrag_llamaindex.errors import ClusterError

LOCAL: Final = "local"
"""A cluster of its own on this machine, which ends with the work."""

AUTO: Final = "auto"
"""The cluster that runs on this machine already."""

ANSWER_SECONDS: Final = 40.0
"""How long a cluster may take to answer; Ray itself waits for two minutes and ends the process."""

_CONNECT_SECONDS = 5.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def connected(address: str = LOCAL) -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster.

    Parameters
    ----------
    address : str
        ``host:port`` of the head of a cluster, `AUTO` or `LOCAL`. A process that is connected
        already stays as it is.

    Raises
    ------
    ClusterError
        If Ray is not installed, or no cluster answers at the address.
    """
    with _quiet():
        ray = import_ray()
        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        if address not in (LOCAL, AUTO):
            _require_answer(address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except (Exception, SystemExit) as error:  # Ray ends the process where it gives up
            raise ClusterError(
                f"no Ray cluster can be used at {address} ({_first_line(error)}): start one with "
                "ray start --head and the versions of Ray and Python that are here, or say --ray "
                f"{LOCAL}"
            ) from None
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
            yield ray
        finally:
            ray.shutdown()


def import_ray() -> Any:
    """Return the module.

    Raises
    ------
    ClusterError
        If it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ClusterError('--ray needs Ray: pip install "mrrag-llamaindex[ray]"') from None
    return ray


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Set what Ray reads when it is imported and started, unless the user has."""
    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _require_answer(address: str) -> None:
    """Raise `ClusterError` unless a cluster of this version answers.

    Asked in another process: Ray's client waits long, prints, and ends its process.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ClusterError(
            f"--ray {address!r} is not the address of a cluster: give host:port of its head "
            f"(6379 unless told otherwise), {AUTO!r} or {LOCAL!r}, and run on one of its machines"
        )
    failure = ClusterError(
        f"no Ray cluster answers at {address}: start one there with ray start --head, mend the "
        f"address, or say --ray {LOCAL} for a cluster on this machine alone"
    )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address"]
        asked = subprocess.run(
            [*command, address], capture_output=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, OverflowError, UnicodeError, subprocess.TimeoutExpired):
        raise failure from None
    if asked.returncode:
        raise failure


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200] or type(error).__name__
