"""What a vLLM engine has to be started with, so that requests can carry plans."""

from __future__ import annotations

import sys
from typing import Any

_HERE = "mrrag_llamaindex.serving.vllm"
SCHEDULER = f"{_HERE}.scheduling.steering_scheduler"
BATCH = f"{_HERE}.batch:SteeredBatch"
WORKER = f"{_HERE}.worker.SteeredWorker"
KEY = "mrrag_key"
"""Argument that the scheduler adds to a request with a plan: the engine's id of it."""

ACTIVE = "MRRAG_VLLM"
"""Environment variable: 1 lets the plugin register itself in every process of the engine."""


def engine_arguments() -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` or ``vllm.AsyncEngineArgs`` that steering needs.

    The caller adds its own; `ACTIVE` must be 1 in the environment, or `plugin.activate` be called,
    before the engine is made.

    Examples
    --------
    >>> sorted(engine_arguments())
    ['async_scheduling', 'logits_processors', 'scheduler_cls', 'worker_cls']
    """
    return {
        "scheduler_cls": SCHEDULER,
        "logits_processors": [BATCH],
        "worker_cls": WORKER,
        "async_scheduling": False,
    }


def command_line() -> list[str]:
    """Return the same for ``vllm serve``."""
    return [
        f"--scheduler-cls={SCHEDULER}",
        f"--logits-processors={BATCH}",
        f"--worker-cls={WORKER}",
        "--no-async-scheduling",
    ]


if __name__ == "__main__":
    sys.stdout.write(" ".join(command_line()) + "\n")
