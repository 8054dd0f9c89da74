"""The shipped model, and prompts that differ in length and image."""

from __future__ import annotations

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.trials import draw_trials


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=3)


@pytest.fixture(scope="module")
def trials():
    """Prompts of unequal length on unequal images."""
    return draw_trials(3, 2, documents=2, irrelevant=1) + draw_trials(
        4, 1, documents=4, irrelevant=2
    )
