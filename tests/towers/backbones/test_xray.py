"""The DenseNet of torchxrayvision: where it is installed, with random weights; its absence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.backbones.loading import load_image_backbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.backbones.xray import XrayImageBackbone
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead


@pytest.fixture
def densenet() -> Any:
    library = pytest.importorskip("torchxrayvision", exc_type=Exception)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return library.models.DenseNet(weights=None).eval()


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(TowerError, match=r"mrrag-llamaindex\[xray\]"):
        load_image_backbone("xrv:densenet121-res224-all")


def test_a_size_is_not_passed_over() -> None:
    with pytest.raises(TowerError, match="reads 224 pixels"):
        load_image_backbone("xrv:densenet121-res224-all", 512)


def test_features_are_those_of_the_library_on_a_film_in_its_range(densenet: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    grey = 2 * values.astype(np.float32) / 255 * 1024 - 1024
    with torch.no_grad():
        expected = densenet.features2(torch.from_numpy(grey)[None, None])
    densenet.op_threshs = torch.zeros(18)  # as with its own weights
    found = XrayImageBackbone(densenet).features([Image.fromarray(values)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_it_becomes_half_of_a_tower_and_comes_back(
    densenet: Any, tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=15, max_position_embeddings=16, **size)).save_pretrained(
        tmp_path / "text"
    )
    tokenizer.save_pretrained(tmp_path / "text")
    densenet.op_threshs = torch.zeros(18)  # as with its own weights
    heads = FittedHeads(ProjectionHead(1024, 6), ProjectionHead(16, 6), {})
    text = TransformersTextBackbone.load(str(tmp_path / "text"))
    tower = FrozenTower(XrayImageBackbone(densenet), text, heads)
    with pytest.raises(TowerError, match="exists in memory only"):
        tower.save(tmp_path / "bare")
    tower.save(tmp_path / "tower", copy_backbones=True)
    again = load_towers(str(tmp_path / "tower"))
    assert again.identity == tower.identity
    np.testing.assert_allclose(again.embed_images(films), tower.embed_images(films), atol=1e-6)
    assert tower.image_backbone.features([]).shape == (0, 1024)


def test_unknown_weights_and_those_not_downloaded_are_named(
    densenet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TowerError, match=r"those known are .*densenet121-res224-all"):
        load_image_backbone("xrv:densenet9")
    with pytest.raises(TowerError, match=r"not on this machine .* download them"):
        load_image_backbone("xrv:densenet121-res224-all")
