"""Small real towers with random weights, and the films that they look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers import BertConfig, PreTrainedTokenizerFast, ResNetConfig

from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
from tests.tiny.tokenizers import words


def films(count: int, width: int = 60, height: int = 40) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(one, mode="RGB") for one in values]


def resnet_bert(
    tokenizer: PreTrainedTokenizerFast | None = None,
    dimension: int = 12,
    *,
    width: int = 8,
    layers: int = 2,
    tokens: int = 16,
    **settings: Any,
) -> ResNetBertTower:
    """Build a ResNet of two stages and a BERT with fresh weights; images of 48 pixels."""
    tokenizer = words() if tokenizer is None else tokenizer
    return ResNetBertTower.from_configs(
        ResNetConfig(
            embedding_size=width, hidden_sizes=[width, 2 * width], depths=[1, 1], layer_type="basic"
        ),
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=tokens,
        ),
        tokenizer,
        ImagePreparation.square(48, (0.2, 0.2, 0.2), (0.3, 0.3, 0.3)),
        dimension,
        **settings,
    )
