"""One small cluster for all tests of a session; they skip where Ray is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mrrag_llamaindex.cluster.connection import connected


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "mrrag-llamaindex[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers are polite to all others, and starve beside tests that keep every core busy.
        patch.setenv("RAY_worker_niceness", "0")
        with connected() as module:
            yield module
