"""Questions per second of vLLM with plans, without, and of our engine in transformers.

    tools/vllm/parity.sh FOLDER --co   # makes the environment
    export VLLM_CPU_KVCACHE_SPACE=1 PYTHONPATH=tools/vllm:.
    FOLDER/bin/python tests/benchmarks/vllm.py --seed 0 --json

A random Mistral of 14M parameters reads prompts of three documents (about 400 tokens), no two
alike, and answers with eight tokens; IFA steers its middle third. Questions come 1, 8 or 32 at
once. Every round runs all levels and engines in random order; what steering costs is the median
of the ratios within rounds, with a 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent]
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("MRRAG_VLLM", "1")

AT_ONCE = (1, 8, 32)
TOKENS = 8
SIZE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 9,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "initializer_range": 0.02,
}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=32, help="of each level")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def make_questions(definition: Any, draw: random.Random, count: int) -> list[Any]:
    """Prompts of unlike documents, with their plans."""
    from mrrag_llamaindex.steering.ifa import IFA
    from tests.serving.vllm.asking import REPORTS

    words = " ".join(REPORTS).split()
    return [
        definition.ask(
            "Is there a nodule, or a pleural effusion?",
            IFA(),
            reports=tuple(" ".join(draw.choices(words, k=24)) for _ in range(3)),
        )
        for _ in range(count)
    ]


def measure(running: Any, definition: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return questions per second by level and engine, and the ratios within rounds."""
    from mrrag_llamaindex.generation.prompt.request import PromptRequest
    from mrrag_llamaindex.steering.ifa import IFA
    from tests.benchmarks.throughput import interval
    from tests.serving.vllm.engines import parameters

    draw = random.Random(options.seed)

    def in_vllm(asked: list[Any], steered: bool) -> None:
        running.generate(
            [one.vllm for one in asked],
            [parameters(one.plan if steered else None, tokens=TOKENS) for one in asked],
            use_tqdm=False,
        )

    def in_transformers(asked: list[Any], _: bool) -> None:
        requests = [
            PromptRequest("Is there a nodule, or a pleural effusion?", one.prompt.documents)
            for one in asked
        ]
        definition.engine.generate(requests, [None] * len(asked), policy=IFA())

    engines = {
        "vllm_steered": (in_vllm, True),
        "vllm_plain": (in_vllm, False),
        "transformers": (in_transformers, True),
    }
    rates: dict[tuple[int, str], list[float]] = {}
    for number in range(-1, options.rounds):  # the first round warms up
        cells = [(size, name) for size in AT_ONCE for name in engines]
        draw.shuffle(cells)
        for size, name in cells:
            run, steered = engines[name]
            count = max(size, options.questions) if number >= 0 else size
            asked = make_questions(definition, draw, count)
            start = time.perf_counter()
            for first in range(0, count, size):
                run(asked[first : first + size], steered)
            if number >= 0:
                rates.setdefault((size, name), []).append(count / (time.perf_counter() - start))
    result: dict[str, Any] = {"seed": options.seed, "rounds": options.rounds, "levels": {}}
    for size in AT_ONCE:
        ratios = [
            steered / plain
            for steered, plain in zip(
                rates[size, "vllm_steered"], rates[size, "vllm_plain"], strict=True
            )
        ]
        result["levels"][size] = {
            **{name: round(statistics.median(rates[size, name]), 2) for name in engines},
            "steered_over_plain": interval(ratios, options.seed),
        }
    result["prompt_tokens"] = len(asked[0].prompt.input_ids)
    return result


def main() -> None:
    options = read_options()
    from tests.serving.vllm.asking import Definition
    from tests.serving.vllm.engines import engine
    from tests.tiny import families

    families.TEXT.update(SIZE)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = families.write("mistral", Path(folder) / "mistral", seed=options.seed)
        definition = Definition(
            checkpoint, max_new_tokens=TOKENS, backend="rows", batch_size=max(AT_ONCE)
        )
        with engine(
            checkpoint,
            max_num_seqs=max(AT_ONCE),
            max_num_batched_tokens=4096,
            num_gpu_blocks_override=800,
        ) as running:
            result = measure(running, definition, options)
    if options.json:
        print(json.dumps(result))
        return
    for size, level in result["levels"].items():
        print(f"{size:>3} at once: {level}")


if __name__ == "__main__":
    main()
