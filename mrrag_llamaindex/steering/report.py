"""What steering really did in one call."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection

from mrrag_llamaindex.errors import SteeringError


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

    def require(self, layers: Collection[int], wanted: int) -> None:
        """Check that each layer steered `wanted` rows of the prompt, and every decode step.

        Raises
        ------
        SteeringError
            If a layer steered fewer rows, or fewer decode steps.
        """
        done, steps, expected = self.rows, self.steps, self._calls
        missing = sorted(layer for layer in layers if done.get(layer, 0) < wanted)
        if missing:
            counts = ", ".join(f"{layer}: {done.get(layer, 0)} of {wanted}" for layer in missing)
            raise SteeringError(
                f"steering was not applied in layers {missing} (rows steered: {counts}). Load the "
                "model with its text layers on one of this package's attention functions, name "
                "only layers that it has, and let the call see all of the question"
            )
        short = sorted(layer for layer in layers if steps.get(layer, 0) < expected)
        if short:
            raise SteeringError(
                f"steering was not applied in every decode step in layers {short}: "
                f"{', '.join(f'{layer}: {steps.get(layer, 0)} of {expected}' for layer in short)}"
            )

    def __repr__(self) -> str:
        return (
            f"SteeringReport(applications={self.applications}, rows={self.rows}, "
            f"steps={self.steps})"
        )
