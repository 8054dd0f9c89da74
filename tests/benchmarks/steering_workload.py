"""The model, prompts and variants that the steering benchmarks run."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from mrrag_llamaindex.steering.attention.model_class import steerable_class
from mrrag_llamaindex.steering.attention.registry import BACKENDS, register
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans

IMAGE_TOKENS, IMAGE_ID, CLOSING = 576, 999, 4


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    implementation: str
    steered: str  # "none" | "third" | "all"


VARIANTS = (
    Variant("stock SDPA", "sdpa", "none"),
    Variant("stock again", "sdpa", "none"),
    Variant("ours, third", BACKENDS["rows"].registered, "third"),
    Variant("ours, all", BACKENDS["rows"].registered, "all"),
    Variant("eager, all", BACKENDS["eager"].registered, "all"),
)
FLEX = (
    Variant("stock flex", "flex_attention", "none"),
    Variant("flex, third", BACKENDS["flex"].registered, "third"),
    Variant("flex, all", BACKENDS["flex"].registered, "all"),
)


@dataclass(frozen=True)
class Size:
    """One workload: documents in each prompt, prompts in the batch, tokens per prompt."""

    documents: int
    batch: int
    tokens: int
    image_tokens: int = IMAGE_TOKENS

    @classmethod
    def of(cls, options: argparse.Namespace, documents: int = 6, batch: int = 1) -> Size:
        """Let the prompt grow with its documents: 1,500 tokens hold six."""
        rest = 1 + IMAGE_TOKENS + options.question + CLOSING
        each = (1500 - 1 - IMAGE_TOKENS - 50 - CLOSING) / 6
        return cls(documents, batch, options.tokens or rest + round(each * documents))


def build(options: argparse.Namespace) -> Any:
    """Make the model with LLaVA-Med's head geometry and random weights, where it will run."""
    torch.manual_seed(options.seed)
    register()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=336,
            patch_size=14,
        ),
        text_config=MistralConfig(
            vocab_size=1000,
            hidden_size=4096,
            intermediate_size=options.intermediate,
            num_hidden_layers=options.layers,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            sliding_window=None,
        ),
        image_token_id=IMAGE_ID,
        image_seq_length=IMAGE_TOKENS,
    )
    model_class = steerable_class(LlavaForConditionalGeneration)
    with torch.device(options.device):
        model: Any = model_class._from_config(config, dtype=getattr(torch, options.dtype))
    return model.eval()


def make_inputs(model: Any, options: argparse.Namespace, size: Size) -> dict[str, torch.Tensor]:
    """Make prompts of one length: BOS, image, documents, question, closing tokens."""
    generator = torch.Generator().manual_seed(options.seed)
    image, words = model.config.image_token_id, model.config.text_config.vocab_size
    ids = torch.randint(3, words, (size.batch, size.tokens), generator=generator)
    ids[ids == image] = 3
    ids[:, 1 : 1 + size.image_tokens] = image
    side = model.config.vision_config.image_size
    pixels = torch.randn(size.batch, 3, side, side, generator=generator)
    return {
        "input_ids": ids.to(options.device),
        "attention_mask": torch.ones_like(ids).to(options.device),
        "pixel_values": pixels.to(options.device, getattr(torch, options.dtype)),
    }


def make_plan(options: argparse.Namespace, size: Size, steered: str) -> SteeringPlan | None:
    """Documents between image and question, lambda from 1 to 0; a single document gets 1."""
    if steered == "none":
        return None
    start, stop = size.tokens - CLOSING - options.question, size.tokens - CLOSING
    edges = np.linspace(1 + size.image_tokens, start, size.documents + 1).astype(int).tolist()
    spans = PromptSpans(tuple(itertools.pairwise(edges)), (start, stop), size.tokens)
    count = options.layers if steered == "all" else max(1, options.layers // 3)
    first = (options.layers - count) // 2
    lambdas = np.linspace(1, 0, size.documents).tolist()
    return SteeringPlan.build(
        [spans] * size.batch,
        [lambdas] * size.batch,
        IFA(),
        range(first, first + count),
        size.tokens,
        device=options.device,
    )


def switch(model: Any, variant: Variant) -> None:
    """Put the text layers on a variant's attention function."""
    model.set_attn_implementation({"text_config": variant.implementation, "vision_config": "sdpa"})


def prefill(model: Any, inputs: dict[str, torch.Tensor], plan: SteeringPlan | None) -> Any:
    """Run the prompts once with a cache, as generation does; returns the model's output."""
    with torch.inference_mode():
        output = model(**inputs, steering=plan, use_cache=True, logits_to_keep=1)
    if plan is not None:
        plan.require_applied()
    return output
