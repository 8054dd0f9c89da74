"""Which nodes were written just now, so that a question for them has to wait for the server."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Final

SECONDS: Final = 10.0
"""Behind a write by which a server shows it to every question; it promises 5."""


class Recency:
    """What this process has written or removed within the last seconds. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._touched: dict[str, float] | None = None

    def touch(self, node_ids: Sequence[str]) -> None:
        """Note what is written or removed, and forget what was long ago."""
        with self._lock:
            now = time.monotonic()
            before = self._touched or {}
            kept = {name: at for name, at in before.items() if now - at < SECONDS}
            self._touched = {**kept, **dict.fromkeys(node_ids, now)}

    def of(self, node_ids: Sequence[str]) -> bool:
        """Whether a question for some nodes has to wait for what was written last.

        The first one does, for what another process has written.
        """
        with self._lock:
            if self._touched is None:
                self._touched = {}
                return True
            now = time.monotonic()
            return any(now - self._touched.get(name, -math.inf) < SECONDS for name in node_ids)
