"""vLLM engines over tiny random checkpoints, in this process, small enough for every feature."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SMALL = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 768,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 96,  # every prompt is read in several chunks
    "block_size": 32,
    "num_gpu_blocks_override": 160,
    "enable_prefix_caching": True,
    "disable_log_stats": True,
    "seed": 0,
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def engine(folder: Path, *, steered: bool = True, **options: Any) -> Iterator[Any]:
    """Run an engine in this process; only one attention class per process, steered or not."""
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    from mrrag_llamaindex.serving.vllm.arguments import engine_arguments
    from mrrag_llamaindex.serving.vllm.plugin import activate

    arguments = SMALL | options
    if steered:
        activate()
        arguments |= engine_arguments()
    running = LLM(model=str(folder), **arguments)
    try:
        yield running
    finally:
        running.llm_engine.engine_core.shutdown()
        del running
        gc.collect()


def parameters(plan: Any = None, tokens: int = 6, **options: Any) -> Any:
    """Greedy, with the log-probabilities of the chosen tokens and three more."""
    from vllm import SamplingParams

    from mrrag_llamaindex.steering.wire.request_plan import to_extra_args

    return SamplingParams(
        temperature=0,
        max_tokens=tokens,
        logprobs=3,
        ignore_eos=True,
        detokenize=False,
        extra_args=None if plan is None else to_extra_args(plan),
        **options,
    )
