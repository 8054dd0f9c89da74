"""What the doctor says of towers is what loading them gives, and it reads no weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
)

from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.machine import DeviceMemory
from mrrag_llamaindex.doctor.towers import examine_towers
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead
from mrrag_llamaindex.towers.raw_projection import RawProjection
from tests.tiny import open_clip as biomed
from tests.tiny.towers import films

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def write_clip(folder: Path, tokenizer: Any) -> None:
    text = {**SMALL, "vocab_size": 15, "max_position_embeddings": 12, "eos_token_id": 3}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_frozen(folder: Path, tokenizer: Any) -> None:
    parts = folder.parent / "parts"
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    resnet.save_pretrained(parts / "image")
    ImagePreparation.square(48).save(parts / "image")
    BertModel(BertConfig(**SMALL, vocab_size=15, max_position_embeddings=16)).save_pretrained(
        parts / "text"
    )
    tokenizer.save_pretrained(parts / "text")
    raw = RawProjection(16, 3), RawProjection(16, 2)
    FrozenTower(
        TransformersImageBackbone.load(str(parts / "image")),
        TransformersTextBackbone.load(str(parts / "text")),
        FittedHeads(ProjectionHead(16, 6), ProjectionHead(16, 6), {}, raw),
    ).save(folder)


WRITERS = {"clip": write_clip, "open-clip": biomed.write, "frozen": write_frozen}


def counted(towers: Any) -> int:
    modules = [
        part for name in ("network", "_heads") if (part := getattr(towers, name, None)) is not None
    ]
    modules += [
        backbone.model
        for name in ("image_backbone", "text_backbone")
        if (backbone := getattr(towers, name, None)) is not None
    ]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_said_is_what_loading_gives(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    WRITERS[kind](tmp_path / "towers", tokenizer)
    found = examine_towers(str(tmp_path / "towers"), "cpu")
    towers: Any = load_towers(str(tmp_path / "towers"))
    draft = found.draft
    assert found.loadable, found.verdict
    assert draft.kind == towers.identity.split("@")[0]
    assert draft.dimension == Blocks.of(towers).head
    assert draft.pair_numbers == Blocks.of(towers).length
    assert draft.tokens == towers.text_token_limit
    images = towers.image_backbone.images if kind == "frozen" else towers.images
    assert images(films(1))["pixel_values"].shape[-2:] == draft.image_size
    # Heads' means and batch norms' counts are stored as well, and are no parameters.
    said = sum(draft.parameters.values())
    assert counted(towers) <= said < 1.1 * counted(towers) + 300


def test_the_phantom_and_its_memory() -> None:
    found = examine_towers("phantom", "cpu")
    assert (found.draft.kind, found.draft.dimension, found.draft.tokens) == ("resnet-bert", 64, 128)
    assert found.draft.image_size == (80, 80)
    assert 0.9 < found.draft.stored_bytes / found.need < 1.2


def test_no_weight_is_read(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    biomed.write(tmp_path, tokenizer)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight was read")

    import safetensors.torch

    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert examine_towers(str(tmp_path), "cpu").loadable


def test_what_is_missing_is_named_as_loading_names_it(tmp_path: Path, tokenizer: Any) -> None:
    write_clip(tmp_path / "clip", tokenizer)
    path = tmp_path / "clip" / "model.safetensors"
    state = load_file(path)
    del state["text_projection.weight"]
    save_file(state, path, metadata={"format": "pt"})
    found = examine_towers(str(tmp_path / "clip"), "cpu")
    assert not found.loadable
    assert "text_projection.weight" in found.verdict
    state = biomed.tensors()
    del state["visual.trunk.norm.bias"]
    biomed.write(tmp_path / "biomed", tokenizer, state)
    with pytest.raises(TowerError, match=r"'visual.trunk.norm.bias' is missing"):
        examine_towers(str(tmp_path / "biomed"), "cpu")


def test_a_lost_encoder_is_a_problem(tmp_path: Path, tokenizer: Any) -> None:
    write_frozen(tmp_path / "towers", tokenizer)
    (tmp_path / "parts" / "image").rename(tmp_path / "parts" / "moved")
    found = examine_towers(str(tmp_path / "towers"), "cpu")
    assert not found.loadable
    assert "image encoder" in found.verdict


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "devices", lambda: (DeviceMemory("cpu", "CPU", 999, 99),))
    assert "do not fit" in examine_towers("phantom", "cpu").verdict
