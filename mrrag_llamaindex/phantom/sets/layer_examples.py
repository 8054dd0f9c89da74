"""Examples on which the critical layers of the phantom are found."""

from __future__ import annotations

from mrrag_llamaindex.learning.layers.blocking import Example
from mrrag_llamaindex.phantom.trials import Trial


def examples_of(trials: list[Trial]) -> list[Example]:
    """Turn trials into examples for `search_layers`; every trial is a patient of its own."""
    return [
        Example(trial.request, trial.image, "yes" if trial.truth else "no", f"synthetic-{number}")
        for number, trial in enumerate(trials)
    ]
