"""One small cluster for all tests of a session; they skip where Ray is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mrrag_llamaindex.cluster.connection import connected


@pytest.fixture(scope="session", autouse=True)
def impolite_workers() -> Iterator[None]:
    """Ray's workers yield to all others, and starve beside tests that keep every core busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="session")
def ray(impolite_workers: None) -> Iterator[Any]:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "mrrag-llamaindex[ray]"')
    with connected() as module:
        yield module
