"""Every tensor is accounted for by name, before a value is read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original

TOWER = "model.vision_tower.vision_tower.vision_model."


SOME = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.mm_projector.2.bias",
    "model.layers.1.self_attn.k_proj.weight",
    TOWER + "post_layernorm.weight",
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", SOME)
def test_a_dropped_tensor_is_named(original: Any, tmp_path: Path, name: str) -> None:
    shape = str(list(original.tensors.pop(name).shape)).replace("[", r"\[")
    with pytest.raises(ModelError, match=f"'{name}' .* missing.* {shape}"):
        open_original(original.write(tmp_path))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", SOME)
def test_a_renamed_tensor_is_named(original: Any, tmp_path: Path, name: str) -> None:
    original.tensors[name + "_old"] = original.tensors.pop(name)
    with pytest.raises(ModelError, match=f"{name}_old"):
        open_original(original.write(tmp_path))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", SOME)
def test_a_reshaped_tensor_is_named(original: Any, tmp_path: Path, name: str) -> None:
    tensor = original.tensors[name]
    original.tensors[name] = torch.cat([tensor, tensor[:1]]).contiguous()
    both = [str(list(t.shape)).replace("[", r"\[") for t in (original.tensors[name], tensor)]
    with pytest.raises(ModelError, match=f"'{name}' .* {both[0]} in model.*{both[1]}"):
        open_original(original.write(tmp_path))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "model.image_newline", "module.lm_head.weight"]
)
def test_a_tensor_too_many_is_named(original: Any, tmp_path: Path, name: str) -> None:
    original.tensors[name] = torch.zeros(2)
    with pytest.raises(ModelError, match=name):
        open_original(original.write(tmp_path))


def test_constants_of_early_transformers_are_no_tensors_too_many(
    make: ModuleType, original: Any, tmp_path: Path
) -> None:
    original.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    original.tensors[TOWER + "embeddings.position_ids"] = torch.arange(5)[None]
    assert (
        make.difference(make.load(open_original(original.write(tmp_path))), original.reference)
        <= 1e-5
    )
