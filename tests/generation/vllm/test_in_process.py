"""What an engine of one's own is started with; that it answers is tested beside vLLM."""

from __future__ import annotations

import os
import threading

import pytest

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.vllm.in_process import _steering_on, arguments_for

OURS = {"dtype": "float32", "batch_size": 2, "prefix_cache": 0, "images": None}


def test_probabilities_are_not_left_to_an_option():
    assert arguments_for(**OURS, options={})["logprobs_mode"] == "raw_logprobs"
    with pytest.raises(ModelError, match="logprobs_mode"):
        arguments_for(**OURS, options={"logprobs_mode": "raw_logits"})


def test_engines_that_start_at_once_keep_steering_on_and_leave_nothing_behind(monkeypatch):
    monkeypatch.delenv("MRRAG_VLLM", raising=False)
    inside, left, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        inside.wait(5)
        with _steering_on():
            left.wait(5)
            seen.append(os.environ.get("MRRAG_VLLM"))

    thread = threading.Thread(target=second)
    thread.start()
    with _steering_on():
        inside.set()
        thread.join(0.2)  # the second would enter here
    left.set()
    thread.join(5)
    assert seen == ["1"]
    assert "MRRAG_VLLM" not in os.environ
