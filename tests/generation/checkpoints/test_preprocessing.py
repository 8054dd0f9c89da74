"""Image preprocessing and features as LLaVA-Med has them, against arithmetic of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from mrrag_llamaindex.generation.checkpoints.llava_original.processor import (
    image_processor,
    image_tokens,
)
from mrrag_llamaindex.images.load import pad_to_square

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711])


def film(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(4).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def by_hand(image: Image.Image) -> np.ndarray:
    """LLaVA-Med's expand2square in int(255 * mean), then CLIP: resize, scale, normalise."""
    side = max(image.size)
    canvas = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = [122, 116, 104]
    top, left = (side - image.height) // 2, (side - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
    small = Image.fromarray(canvas).resize((336, 336), Image.Resampling.BICUBIC)
    values = (np.asarray(small, dtype=np.float64) / 255 - MEAN) / SPREAD
    return values.transpose(2, 0, 1)


@pytest.fixture(scope="module")
def vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        initializer_range=0.1,
    )


@pytest.mark.parametrize("size", [(800, 416), (416, 801), (336, 336), (120, 100)])
def test_pixels_are_those_of_llava_med(vision: CLIPVisionConfig, size: tuple[int, int]) -> None:
    image = film(*size)
    processor = image_processor(vision)
    padded = pad_to_square(image, processor.image_mean)
    pixels = processor(images=[padded], return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 336, 336)
    np.testing.assert_allclose(pixels.numpy(), by_hand(image), atol=1e-5)


def test_without_padding_the_sides_would_be_lost(vision: CLIPVisionConfig) -> None:
    image = film(800, 416)
    pixels = image_processor(vision)(images=[image], return_tensors="pt")["pixel_values"][0]
    assert np.abs(pixels.numpy() - by_hand(image)).max() > 1


def test_features_are_576_patches_of_the_last_layer_but_one(vision: CLIPVisionConfig) -> None:
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision,
        text_config=MistralConfig(
            vocab_size=8,
            hidden_size=12,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=12,
        ),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_token_index=7,
    )
    model = LlavaForConditionalGeneration(config).eval()
    assert image_tokens(config) == (336 // 14) ** 2 == 576
    pixels = torch.tensor(by_hand(film(800, 416)), dtype=torch.float32)[None]
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    with torch.inference_mode():
        features = model.get_image_features(pixels).pooler_output[0]
        # By hand: two of the three layers, the class token (the first) left out, two linear maps.
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[:2]:
            hidden = layer(hidden, attention_mask=None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        patches = hidden[0, 1:]
        expected = projector.linear_2(
            torch.nn.functional.gelu(projector.linear_1(patches), approximate="none")
        )
    assert features.shape == (576, 12)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)


def test_the_processor_of_a_clip_folder_is_used(tmp_path: Path, vision: CLIPVisionConfig) -> None:
    from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import _image_processor

    own = image_processor(vision)
    own.image_mean = [0.1, 0.2, 0.3]
    own.save_pretrained(tmp_path)
    assert list(_image_processor(tmp_path, vision).image_mean) == [0.1, 0.2, 0.3]
    assert _image_processor(None, vision).image_mean == pytest.approx(MEAN)
