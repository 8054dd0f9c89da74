"""A tiny real LLaVA (CLIP + grouped-query Mistral) with strong random weights, and its prompts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration, MistralConfig

from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import register
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans
from tests.tiny.families import TEXT, llava_config

IMAGE_TOKEN, PAD_TOKEN, IMAGE_TOKENS = 90, 0, 4
CRITICAL = (1, 2)


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """All of this folder."""


@pytest.fixture(autouse=True, scope="module")
def _uncompiled() -> Iterator[None]:
    """FlexAttention runs as plain tensor code; compiling it for each shape takes seconds."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint; 8 query heads share 2 key heads, 4 layers."""
    torch.manual_seed(0)
    # Above the usual .02, so that attention is peaked and steering is visible; higher values
    # amplify rounding until even stock SDPA and stock eager differ by 1e-4.
    shape = {"num_attention_heads": 8, "initializer_range": 0.15}
    text = MistralConfig(**TEXT | shape | {"pad_token_id": PAD_TOKEN}, sliding_window=None)
    config = llava_config(text, IMAGE_TOKEN)
    folder = tmp_path_factory.mktemp("llava")
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def load(model_folder: Path) -> Callable[..., Any]:
    """Load the checkpoint: `backend` is one of ours, or a stock name behind "stock-"."""
    register()

    @functools.cache
    def _load(backend: str) -> Any:
        if backend.startswith("stock-"):
            name = backend.removeprefix("stock-")
            return LlavaForConditionalGeneration.from_pretrained(
                model_folder, attn_implementation={"text_config": name, "vision_config": "sdpa"}
            ).eval()
        return (
            steerable_class(LlavaForConditionalGeneration)
            .from_pretrained(
                model_folder,
                attn_implementation=attention_implementation(
                    LlavaForConditionalGeneration, backend
                ),
            )
            .eval()
        )

    return _load


@pytest.fixture(scope="session")
def stock_of(load: Callable[..., Any]) -> Callable[[str], Any]:
    """The model on the stock function that a backend leaves unsteered calls to."""
    names = {"rows": "sdpa", "eager": "eager", "flex": "flex_attention"}
    return lambda backend: load(f"stock-{names[backend]}")


@pytest.fixture(scope="session")
def rows_model(load: Callable[..., Any]) -> Any:
    return load("rows")


@pytest.fixture(scope="session")
def eager_model(load: Callable[..., Any]) -> Any:
    return load("eager")


@pytest.fixture(scope="session")
def sdpa_model(load: Callable[..., Any]) -> Any:
    return load("stock-sdpa")


class Prompt:
    """BOS, image tokens, documents with a separator each, question, closing token."""

    def __init__(self, documents: Sequence[int], question: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def words(count: int) -> list[int]:
            return torch.randint(10, 80, (count,), generator=generator).tolist()

        ids = [1, *[IMAGE_TOKEN] * IMAGE_TOKENS]
        spans = []
        for length in documents:
            spans.append((len(ids), len(ids) + length))
            ids += [*words(length), 5]
        start = len(ids)
        ids += [*words(question), 6]
        self.ids = ids
        self.spans = PromptSpans(tuple(spans), (start, len(ids) - 1), len(ids))
        self.question_length = question
        self.image = torch.randn(3, 28, 28, generator=generator)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Three prompts with different lengths, documents and questions."""
    return [Prompt((6, 5, 7), 4, 1), Prompt((9, 3), 7, 2), Prompt((4, 4, 4, 4), 2, 3)]


LAMBDAS = [(1.0, 0.0, 0.4), (0.0, 1.0), (0.2, 1.0, 0.0, 0.7)]


def batch(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """Left-padded model inputs."""
    length = max(len(prompt.ids) for prompt in prompts)
    return {
        "input_ids": torch.tensor(
            [[PAD_TOKEN] * (length - len(p.ids)) + p.ids for p in prompts], dtype=torch.long
        ),
        "attention_mask": torch.tensor(
            [[0] * (length - len(p.ids)) + [1] * len(p.ids) for p in prompts]
        ),
        "pixel_values": torch.stack([p.image for p in prompts]),
    }


def plan_for(
    prompts: Sequence[Prompt],
    lambdas: Sequence[Sequence[float]] = LAMBDAS,
    ifa: IFA | None = None,
    layers: Sequence[int] = CRITICAL,
) -> SteeringPlan:
    return SteeringPlan.build(
        [prompt.spans for prompt in prompts],
        lambdas[: len(prompts)],
        IFA() if ifa is None else ifa,
        layers,
        padded_length=max(len(prompt.ids) for prompt in prompts),
    )


def logits_of(model: Any, inputs: dict[str, Any], plan: SteeringPlan | None = None) -> torch.Tensor:
    with torch.inference_mode():
        steering = {} if plan is None else {"steering": plan}
        return model(**inputs, **steering).logits


@pytest.fixture(scope="session")
def toy(prompts: list[Prompt]) -> SimpleNamespace:
    """The prompts and the helpers above, for tests."""
    return SimpleNamespace(
        prompts=prompts,
        lambdas=LAMBDAS,
        critical=CRITICAL,
        image_tokens=IMAGE_TOKENS,
        batch=batch,
        plan=plan_for,
        logits=logits_of,
    )
