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
        self._steps: Counter[int] = Counter()
        self._calls = 0

    def record(self, layer: int, rows: int) -> None:
        """Note that one attention call of `layer` steered `rows` rows, over the whole batch."""
        with self._lock:
            self._applications[layer] += 1
            self._rows[layer] += rows

    def record_step(self, layer: int) -> None:
        """Note that `layer` steered one call behind the prompt: the rows of generated tokens."""
        with self._lock:
            self._steps[layer] += 1

    def expect_step(self) -> None:
        """Note that a call behind the prompt begins, which every layer of the plan must steer."""
        with self._lock:
            self._calls += 1

    @property
    def applications(self) -> dict[int, int]:
        """Steered attention calls per layer that held rows of the prompt."""
        with self._lock:
            return dict(self._applications)

    @property
    def rows(self) -> dict[int, int]:
        """Steered rows of the prompt per layer, summed over the batch and over prefill chunks."""
        with self._lock:
            return dict(self._rows)

    @property
    def steps(self) -> dict[int, int]:
        """Steered decode steps per layer; empty for a policy that acts on the prompt only."""
        with self._lock:
            return dict(self._steps)

    @property
    def expected_steps(self) -> int:
        """Decode steps that were to be steered."""
        with self._lock:
            return self._calls

    def __repr__(self) -> str:
        return (
            f"SteeringReport(applications={self.applications}, rows={self.rows}, "
            f"steps={self.steps})"
        )
