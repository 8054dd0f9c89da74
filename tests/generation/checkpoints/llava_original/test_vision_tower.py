"""Where the vision tower comes from is chosen, recorded and compared."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original

TOWER = "model.vision_tower.vision_tower.vision_model."


def test_the_checkpoint_is_compared_with_clip(original: Any, clip: Path, tmp_path: Path) -> None:
    stored = load_file(clip / "model.safetensors")
    for key, tensor in stored.items():
        if key.startswith("vision_model."):
            original.tensors[TOWER + key[len("vision_model.") :]] = tensor.clone()
    same = open_original(original.write(tmp_path / "same"))
    assert [note for note in same.notes if "identical" in note]
    key = TOWER + "encoder.layers.1.mlp.fc1.bias"
    original.tensors[key] = original.tensors[key] + torch.tensor([0.25] + [0.0] * 47)
    other = open_original(original.write(tmp_path / "other"))
    assert [note for note in other.notes if "differs" in note and "by up to 0.25;" in note]
    assert other.config.mrrag_vision_tower == "checkpoint" == other.vision_source


def test_rounding_to_the_type_of_the_checkpoint_is_no_difference(
    original: Any, clip: Path, tmp_path: Path
) -> None:
    for key, tensor in load_file(clip / "model.safetensors").items():
        if key.startswith("vision_model."):
            original.tensors[TOWER + key[len("vision_model.") :]] = tensor.clone()
    original.tensors = {k: v.bfloat16() for k, v in original.tensors.items()}
    assert "identical" in " ".join(open_original(original.write(tmp_path)).notes)


@pytest.mark.parametrize("by_path", [False, True])
def test_clip_can_be_chosen(
    make: ModuleType, original: Any, clip: Path, pieces: bytes, tmp_path: Path, by_path: bool
) -> None:
    choice = "clip"
    if by_path:
        clip, choice = tmp_path / "other_clip", str(tmp_path / "other_clip")
        make.write_clip(clip, seed=11)
    original.config["unfreeze_mm_vision_tower"] = True
    opened = open_original(original.write(tmp_path / "model"), vision_tower=choice)
    assert opened.vision_source == f"clip: {clip}" == opened.config.mrrag_vision_tower
    assert any("was trained" in note for note in opened.notes)
    assert make.difference(make.load(opened), original.reference) > 1e-3
    make.use_tower_of(clip, original.reference)
    assert make.difference(make.load(opened), original.reference) <= 1e-5


def test_a_tower_saved_on_its_own(
    make: ModuleType, original: Any, clip: Path, tmp_path: Path
) -> None:
    from transformers import CLIPVisionModel

    alone = tmp_path / "alone"
    CLIPVisionModel.from_pretrained(clip).save_pretrained(alone)
    stored = load_file(alone / "model.safetensors")
    bare = {k.removeprefix("vision_model."): v for k, v in stored.items()}
    save_file(bare, alone / "model.safetensors", metadata={"format": "pt"})
    opened = open_original(original.write(tmp_path / "model"), vision_tower=str(alone))
    make.use_tower_of(clip, original.reference)
    assert make.difference(make.load(opened), original.reference) <= 1e-5


def test_known_towers_need_no_folder() -> None:
    from mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower import vision_config

    config = vision_config(None, "openai/clip-vit-large-patch14-336")
    # As published in that model's config.json.
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    assert sizes == (1024, 4096, 24)
    assert (config.num_attention_heads, config.image_size, config.patch_size) == (16, 336, 14)
    assert (config.hidden_act, config.layer_norm_eps) == ("quick_gelu", 1e-5)


def test_an_unknown_tower_is_asked_for(original: Any, tmp_path: Path) -> None:
    original.config["mm_vision_tower"] = "nobody/no-such-tower"
    with pytest.raises(ModelError, match=r"nobody/no-such-tower.*vision_tower="):
        open_original(original.write(tmp_path))


def test_a_tower_of_another_width(make: ModuleType, original: Any, tmp_path: Path) -> None:
    make.write_clip(tmp_path / "wide", hidden_size=64)
    with pytest.raises(ModelError, match=r"64 channels .* mm_hidden_size = 32"):
        open_original(original.write(tmp_path / "m"), vision_tower=str(tmp_path / "wide"))


def test_a_tower_with_a_part_missing(original: Any, tmp_path: Path) -> None:
    del original.tensors[TOWER + "encoder.layers.0.layer_norm1.bias"]
    with pytest.raises(ModelError, match=TOWER + "encoder.layers.0.layer_norm1.bias' .* missing"):
        open_original(original.write(tmp_path))
