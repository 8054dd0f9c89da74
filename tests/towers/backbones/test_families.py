"""Image encoders of the field as frozen backbones: small ones of each family, random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    BitImageProcessorPil,
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SwinConfig,
    SwinModel,
    Swinv2Config,
    Swinv2Model,
    ViTConfig,
    ViTModel,
)

from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
DINO = {**SMALL, "image_size": 28, "patch_size": 7}
STAGES = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
SHIFTED = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
FAMILIES: dict[str, tuple[Callable[[], PreTrainedModel], int]] = {
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**DINO)), 24),  # RAD-DINO is one
    "dinov2-registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINO, num_register_tokens=2)),
        24,
    ),
    "convnext": (lambda: ConvNextModel(ConvNextConfig(**STAGES)), 16),
    "convnextv2": (lambda: ConvNextV2Model(ConvNextV2Config(**STAGES)), 16),
    "swin": (lambda: SwinModel(SwinConfig(**SHIFTED)), 24),
    "swinv2": (lambda: Swinv2Model(Swinv2Config(**SHIFTED)), 24),
    "vit": (
        lambda: ViTModel(ViTConfig(**SMALL, image_size=28, patch_size=7, intermediate_size=32)),
        24,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_encoder_of_the_family_becomes_half_of_a_tower_and_comes_back(
    family: str, tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    make, width = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        heads = FittedHeads(ProjectionHead(width, 6), ProjectionHead(32, 6), {})
    size = getattr(model.config, "image_size", 32)
    model.save_pretrained(tmp_path / "image")
    BitImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(tmp_path / "image")
    text = _bert(tmp_path / "text", tokenizer)
    image = TransformersImageBackbone.load(str(tmp_path / "image"))
    assert image.dimension == width
    with torch.no_grad():
        pixels = image.images(films)["pixel_values"]
        assert pixels.shape[1:] == (3, size, size)
        expected = model(pixels).pooler_output.flatten(1)
    torch.testing.assert_close(image.features(films, 2), expected, atol=1e-5, rtol=1e-5)
    tower = FrozenTower(image, text, heads)
    tower.save(tmp_path / "tower")
    again = load_towers(str(tmp_path / "tower"))
    assert again.identity == tower.identity
    np.testing.assert_allclose(again.embed_images(films), tower.embed_images(films), atol=1e-6)


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_the_class_token_of_dinov2_is_what_rad_dino_was_trained_on(
    pooling: str, tmp_path: Path, films: list[Any]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Dinov2Model(Dinov2Config(**DINO)).eval()
    model.save_pretrained(tmp_path)
    BitImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(tmp_path)
    found = TransformersImageBackbone.load(str(tmp_path), pooling).features(films)
    with torch.no_grad():
        pixels = TransformersImageBackbone.load(str(tmp_path)).images(films)["pixel_values"]
        hidden = model(pixels).last_hidden_state
    expected = hidden.mean(dim=1) if pooling == "mean" else hidden[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_encoders_with_projections_of_their_own_keep_their_common_space(
    tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    """Swin or ConvNeXt with a BERT, trained together elsewhere, as CXR-CLIP's are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SwinModel(SwinConfig(**SHIFTED)).eval()
        text = _bert(tmp_path / "text", tokenizer, pooling="last")
        weights = [torch.randn(6, 24), torch.randn(6), torch.randn(6, 32)]
    model.save_pretrained(tmp_path / "image")
    BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "image")
    image = TransformersImageBackbone.load(str(tmp_path / "image"), pooling="cls")
    heads = FittedHeads(ProjectionHead.linear(*weights[:2]), ProjectionHead.linear(weights[2]), {})
    FrozenTower(image, text, heads).save(tmp_path / "tower", copy_backbones=True)
    tower = load_towers(str(tmp_path / "tower"))
    with torch.no_grad():
        hidden = model(image.images(films)["pixel_values"]).last_hidden_state
        pixels = normalize(hidden[:, 0] @ weights[0].T + weights[1])
    np.testing.assert_allclose(tower.embed_images(films), pixels, atol=1e-5)
    # Of different lengths, so that one of them is padded in its batch.
    words = ["no pleural effusion", "heart"]
    with torch.no_grad():
        ends = [
            text.model(**tokenizer(one, return_tensors="pt")).last_hidden_state[0, -1]
            for one in words
        ]
    expected = normalize(torch.stack(ends) @ weights[2].T)
    np.testing.assert_allclose(tower.embed_texts(words), expected, atol=1e-5)


def _bert(folder: Path, tokenizer: Any, **options: Any) -> TransformersTextBackbone:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=15,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformersTextBackbone.load(str(folder), **options)
