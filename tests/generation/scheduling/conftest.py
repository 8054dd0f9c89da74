"""A phantom model of one's own, and what it is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.phantom.sets.trials import draw_trials


@pytest.fixture(scope="module")
def trials():
    return draw_trials(3, 24, documents=4, irrelevant=2)


@pytest.fixture
def own() -> LlavaEngine:
    """A phantom that a test may change, with answers of some length."""
    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=6)


@pytest.fixture
def endless(own) -> LlavaEngine:
    """A phantom that never ends an answer by itself."""
    own.model.generation_config.eos_token_id = None
    return own.with_limits(max_new_tokens=1500)


@contextmanager
def held(engine: LlavaEngine) -> Iterator[None]:
    """Keep the model busy, so that what is asked meanwhile waits together.

    One batch may be chosen before and run behind it: ask for something unimportant first.
    """
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.runner.alone():
            inside.set()
            over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(hold)
        inside.wait(60)
        try:
            yield
        finally:
            over.set()
            done.result()


@pytest.fixture
def busy() -> Callable[[LlavaEngine], object]:
    return held
