"""`HFDualTower` on small models of several types, each with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.kinds.hf_dual import HFDualTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.protocol import DualTower

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = {**SMALL, "vocab_size": 15, "max_position_embeddings": 12, "pad_token_id": 0}
CLIP_TEXT = {**TEXT, "bos_token_id": 2, "eos_token_id": 3}
ROBERTA_TEXT = {**TEXT, "project_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
CROP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def clip() -> tuple[PreTrainedModel, Any]:
    config = CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=8)
    return CLIPModel(config), CLIPImageProcessorPil(**CROP)


def siglip() -> tuple[PreTrainedModel, Any]:
    config = SiglipConfig(text_config=TEXT, vision_config=VISION)
    return SiglipModel(config), SiglipImageProcessorPil(size={"height": 32, "width": 32})


def siglip2() -> tuple[PreTrainedModel, Any]:
    vision = {**SMALL, "patch_size": 8, "num_patches": 16}
    config = Siglip2Config(text_config=TEXT, vision_config=vision)
    return Siglip2Model(config), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)


def altclip() -> tuple[PreTrainedModel, Any]:
    config = AltCLIPConfig(text_config=ROBERTA_TEXT, vision_config=VISION, projection_dim=8)
    return AltCLIPModel(config), CLIPImageProcessorPil(**CROP)


def chinese_clip() -> tuple[PreTrainedModel, Any]:
    config = ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return ChineseCLIPModel(config), CLIPImageProcessorPil(**CROP)


MAKERS = {
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
}
LIMITS = {"clip": 12, "siglip": 12, "siglip2": 12, "altclip": 11, "chinese_clip": 12}


def save(kind: str, folder: Path, tokenizer: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = MAKERS[kind]()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", MAKERS)
def test_any_dual_encoder_gives_unit_vectors_and_comes_back(
    kind: str, tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    save(kind, tmp_path, tokenizer)
    tower = load_towers(str(tmp_path))
    assert isinstance(tower, HFDualTower)
    assert isinstance(tower, DualTower)
    assert tower.identity.startswith(f"{kind}@")
    assert tower.text_token_limit == LIMITS[kind]
    texts = ["no pleural effusion", "shows left pleural effusion " * 10]
    for vectors in (tower.embed_images(films), tower.embed_texts(texts)):
        assert vectors.shape[1] == tower.dimension
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.abs(tower.embed_images(films)[0] - tower.embed_images(films)[1]).max() > 1e-4
    again = load_towers(tower.source)
    assert (again.identity, again.source) == (tower.identity, str(tmp_path.resolve()))
    np.testing.assert_array_equal(again.embed_texts(texts), tower.embed_texts(texts))


def test_clip_vectors_are_those_of_the_model_itself(
    tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    model = save("clip", tmp_path, tokenizer)
    tower = HFDualTower.load(str(tmp_path))
    square = [film.resize((50, 50)) for film in films]
    inputs = tower.images.processor(images=square, return_tensors="pt")
    words = tokenizer(["no pleural effusion", "heart"], padding=True, return_tensors="pt")
    words.pop("token_type_ids", None)
    with torch.no_grad():
        out = model(**inputs, **words)
    np.testing.assert_allclose(tower.embed_images(square), out.image_embeds, atol=1e-6)
    vectors = tower.embed_texts(["no pleural effusion", "heart"])
    np.testing.assert_allclose(vectors, out.text_embeds, atol=1e-6)


def test_siglip_texts_are_padded_to_full_length_as_in_training(
    tmp_path: Path, tokenizer: Any
) -> None:
    model = save("siglip", tmp_path, tokenizer)
    tower = HFDualTower.load(str(tmp_path))
    words = tokenizer(
        ["heart"], padding="max_length", max_length=12, return_tensors="pt", truncation=True
    )
    with torch.no_grad():
        expected = model.get_text_features(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).pooler_output[0]
    expected = expected / expected.norm()
    np.testing.assert_allclose(tower.embed_texts(["heart"])[0], expected, atol=1e-6)


def test_medsiglip_keeps_448_pixels_and_reads_reports_in_windows_of_64_tokens(
    tmp_path: Path, tokenizer_of: Callable[..., Any], films: list[Any]
) -> None:
    config = SiglipConfig(
        text_config={**TEXT, "max_position_embeddings": 64},
        vision_config={**SMALL, "image_size": 448, "patch_size": 64},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SiglipModel(config).save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 448, "width": 448}).save_pretrained(tmp_path)
    tokenizer = tokenizer_of()
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(tmp_path)
    tower = load_towers(str(tmp_path))
    assert isinstance(tower, HFDualTower)
    assert tower.text_token_limit == 64
    assert tower.images(films)["pixel_values"].shape == (len(films), 3, 448, 448)
    words = ("shows left pleural effusion " * 25).split()  # 100 words, 62 in a window
    report = " ".join(words)
    windows = tower.texts.split([report])
    assert [window.tokens for window in windows] == [62, 38]
    assert tower.texts.batch(windows)["input_ids"].shape == (2, 64)
    first, rest = tower.embed_texts([" ".join(words[:62]), " ".join(words[62:])])
    expected = (62 * first + 38 * rest) / np.linalg.norm(62 * first + 38 * rest)
    np.testing.assert_allclose(tower.embed_texts([report])[0], expected, atol=1e-5)


def test_a_wide_film_is_padded_where_the_processor_would_cut_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    wide = Image.new("RGB", (200, 80), (90, 90, 90))
    marked = wide.copy()
    marked.paste((250, 250, 250), (0, 0, 15, 80))
    save("clip", tmp_path / "clip", tokenizer)
    save("siglip", tmp_path / "siglip", tokenizer)
    padded = HFDualTower.load(str(tmp_path / "clip"))
    cut = HFDualTower.load(str(tmp_path / "clip"), pad=False)
    whole = HFDualTower.load(str(tmp_path / "siglip"))
    assert [tower.images.pad for tower in (padded, cut, whole)] == [True, False, False]
    moved = [np.ptp(t.embed_images([wide, marked]), axis=0).max() for t in (padded, cut, whole)]
    assert moved[0] > 1e-4
    assert moved[1] < 1e-6
    assert moved[2] > 1e-4
    assert padded.identity != cut.identity


def test_a_model_without_text_features_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(TowerError, match="'bert' has no get_image_features"):
        load_towers(str(tmp_path))


def test_missing_weights_are_not_filled_with_random_ones(tmp_path: Path, tokenizer: Any) -> None:
    from safetensors.torch import load_file, save_file

    save("clip", tmp_path, tokenizer)
    state = load_file(tmp_path / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TowerError, match=r"1 tensors are missing .* text_projection.weight first"):
        load_towers(str(tmp_path))


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
def test_an_incomplete_folder_is_refused(tmp_path: Path, tokenizer: Any, file: str) -> None:
    save("clip", tmp_path, tokenizer)
    for path in tmp_path.glob(f"{file.split('.')[0].split('_')[0]}*"):
        path.unlink()
    with pytest.raises(TowerError, match=r"cannot be read as a dual encoder|holds no tokenizer"):
        load_towers(str(tmp_path))


def test_a_limit_beyond_the_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    save("clip", tmp_path, tokenizer)
    with pytest.raises(ValueError, match="at most 12 tokens"):
        HFDualTower.load(str(tmp_path), text_token_limit=13)
    assert HFDualTower.load(str(tmp_path), text_token_limit=8).text_token_limit == 8


def test_features_in_two_spaces_are_refused(tokenizer_of: Callable[..., Any]) -> None:
    model, processor = clip()
    model.visual_projection = torch.nn.Linear(16, 9)
    with pytest.raises(TowerError, match="do not lie in one space"):
        HFDualTower(model, tokenizer_of(), processor)
