"""A LLaVA with random weights, made on the device: no file, no hub, no accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
import transformers

from mrrag_llamaindex.generation.checkpoints.families import family_of
from mrrag_llamaindex.generation.checkpoints.image_readers import ImageReader
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile
from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import register

_LLAVA_MED = {
    "text": {
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
    },
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}
_TINY = {
    "text": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        # Above the usual .02, so that attention is peaked and steering visible.
        "initializer_range": 0.12,
    },
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
}
SHAPES: Final = MappingProxyType({"llava-med": _LLAVA_MED, "tiny": _TINY})
"""Text and vision configuration by name; the first is that of LLaVA-Med 1.5."""


def configuration(shape: Mapping[str, Any], tokenizer: Any) -> transformers.LlavaConfig:
    """Write the configuration of a LLaVA: every answer runs to its limit, for want of an end."""
    text = transformers.MistralConfig(
        **{"vocab_size": len(tokenizer)} | shape["text"],
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = transformers.CLIPVisionConfig(**shape["vision"])
    return transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
    )


def random_llava(
    size: str, device: str, dtype: str, *, backend: str = "rows", seed: int = 0
) -> LoadedModel:
    """Make a steerable model with what `LlavaEngine` needs beside it.

    Parameters
    ----------
    size : str
        One of `SHAPES`.
    device, dtype : str
        Where it is made, and in what; nothing is made elsewhere first.
    backend : str
        Steering backend.
    seed : int
        Of the weights: the same on the same kind of device.
    """
    register()
    tokenizer = build_tokenizer()
    config = configuration(SHAPES[size], tokenizer)
    base = transformers.LlavaForConditionalGeneration
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = steerable_class(base)._from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention_implementation(base, backend),
        )
    side = config.vision_config.image_size
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    depth = config.text_config.num_hidden_layers
    critical = tuple(range(depth // 3, depth - depth // 3))
    family = family_of(config.to_dict(), size)
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        images=ImageReader(processor, family, config.image_token_id),
        family=family,
        profile=ModelProfile(critical_layers=critical),
        critical_layers=critical,
        layers_are_known=True,
        source=f"random {size}",
    )
