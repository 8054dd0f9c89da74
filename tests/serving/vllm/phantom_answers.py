"""A stock query engine over synthetic studies, through vLLM and through transformers.

    python -m tests.serving.vllm.phantom_answers                       # vLLM in this process
    python -m tests.serving.vllm.phantom_answers --api-base http://127.0.0.1:8000

Every question is asked by ``aquery``, all at once; answers are compared one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.integration.trace import answer_trace
from mrrag_llamaindex.phantom.sets.evaluation_set import SETTING, phantom_set


@dataclass(frozen=True)
class Asked:
    """What there is to ask, and the truth of it."""

    index: MRRAGIndex
    bundles: list[QueryBundle]
    truths: list[str]


def make(folder: Path, seed: int, count: int) -> Asked:
    """Draw an evaluation set of the phantom, and put its pairs into a store."""
    drawn = phantom_set(seed, questions=count)
    index = MRRAGIndex.from_pairs(drawn.pairs, "phantom", folder / "store")
    bundles, truths = [], []
    for number, item in enumerate(drawn.questions):
        path = folder / f"query-{number}.png"
        item.image.save(path)
        bundles.append(QueryBundle(item.question, image_path=str(path)))
        truths.append(drawn.labels[item.question_id])
    return Asked(index, bundles, truths)


async def ask_all(asked: Asked, llm: MRRAGLLaVA) -> list[Answer]:
    """Ask everything at once."""
    engine = asked.index.as_query_engine(llm=llm, similarity_top_k=SETTING.documents)
    responses = await asyncio.gather(*(engine.aquery(bundle) for bundle in asked.bundles))
    return [answer_trace(response)[-1] for response in responses]


def compare(asked: Asked, theirs: list[Answer], ours: list[Answer]) -> dict[str, Any]:
    """Count how answers differ; ``ours`` are those of transformers."""
    pairs = list(zip(theirs, ours, strict=True))
    facts = ("document_ids", "steering", "prompt_tokens", "image_read", "answer_tokens", "cut_off")

    def right(answers: list[Answer]) -> int:
        return sum(one.text == truth for one, truth in zip(answers, asked.truths, strict=True))

    return {
        "questions": len(pairs),
        "steered": sum(one.steering.applied for one in theirs),
        "same_text": sum(one.text == other.text for one, other in pairs),
        "same_facts": sum(
            all(getattr(one, name) == getattr(other, name) for name in facts)
            for one, other in pairs
        ),
        # Queries are embedded in batches, which moves a score in its seventh digit.
        "largest_difference_of_lambda": max(
            abs(value - other.lambdas[name])
            for one, other in pairs
            for name, value in one.lambdas.items()
        ),
        "largest_difference_of_p": max(
            max(abs(one.p_yes - other.p_yes), abs(one.p_no - other.p_no)) for one, other in pairs
        ),
        "accuracy_vllm": right(theirs) / len(pairs),
        "accuracy_transformers": right(ours) / len(pairs),
    }


def main() -> None:
    """Print the comparison, with IFA and with plain attention, as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--api-base", help="a server with vLLM; default: vLLM in this process")
    options = parser.parse_args()
    limits = {"model": "phantom", "max_new_tokens": 4, "batch_size": 32, "max_documents": 7}
    if options.api_base:
        far = MRRAGLLaVA(api_base=options.api_base, **limits)
    else:
        far = MRRAGLLaVA(engine="vllm", engine_options={"enforce_eager": True}, **limits)
    here = MRRAGLLaVA(device="cpu", **limits)
    told: dict[str, Any] = {"engine": far.engine.device, "seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        asked = make(Path(folder), options.seed, options.questions)
        for name, policy in (("ifa", here.policy), ("off", None)):
            far.policy = here.policy = policy
            began = time.perf_counter()
            theirs = asyncio.run(ask_all(asked, far))
            middle = time.perf_counter()
            ours = asyncio.run(ask_all(asked, here))
            seconds = {"vllm": middle - began, "transformers": time.perf_counter() - middle}
            told[name] = compare(asked, theirs, ours) | {"seconds": seconds}
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
