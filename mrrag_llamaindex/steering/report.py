"""What steering really did in one call."""

from __future__ import annotations

import threading
from collections import Counter


class SteeringReport:
    """Count of the attention calls and rows that were steered.

    One report belongs to one plan, hence to one call of the model. Recording is locked, so a
    stream may be generated in one thread and its report read in another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._applications: Counter[int] = Counter()
        self._rows: Counter[int] = Counter()

    def record(self, layer: int, rows: int) -> None:
        """Note that one attention call of `layer` steered `rows` rows, over the whole batch."""
        with self._lock:
            self._applications[layer] += 1
            self._rows[layer] += rows

    @property
    def applications(self) -> dict[int, int]:
        """Steered attention calls per layer."""
        with self._lock:
            return dict(self._applications)

    @property
    def rows(self) -> dict[int, int]:
        """Steered rows per layer, summed over the batch and over prefill chunks."""
        with self._lock:
            return dict(self._rows)

    def __repr__(self) -> str:
        return f"SteeringReport(applications={self.applications}, rows={self.rows})"
