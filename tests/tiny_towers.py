"""Small real towers: transformers models with random weights, and a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, ResNetConfig

from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.resnet_bert import ResNetBertTower

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "no",
    "shows",
    "pleural",
    "effusion",
    "heart",
    "size",
    "is",
    "normal",
    "left",
    "right",
    ".",
]


def make_tokenizer(special: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    )


def make_films(count: int, width: int = 60, height: int = 40) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(one, mode="RGB") for one in values]


def make_resnet_bert(**settings: Any) -> ResNetBertTower:
    return ResNetBertTower.from_configs(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        ),
        make_tokenizer(),
        ImagePreparation.square(48, (0.2, 0.2, 0.2), (0.3, 0.3, 0.3)),
        12,
        **settings,
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def tokenizer_of() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture
def films() -> list[Image.Image]:
    return make_films(5)


@pytest.fixture
def resnet_bert() -> Callable[..., ResNetBertTower]:
    """Factory of a `ResNetBertTower` with fresh weights, n = 12, 16 tokens, 48 pixels."""
    return make_resnet_bert
