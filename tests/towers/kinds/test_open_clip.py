"""`OpenClipTower` on a small checkpoint in the layout of BiomedCLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.images.load import pad_to_square
from mrrag_llamaindex.towers.kinds.open_clip import OpenClipTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.open_clip.folder import open_clip_safetensors
from mrrag_llamaindex.towers.protocol import DualTower
from tests.tiny import open_clip as biomed

SIZE = biomed.PATCH * biomed.GRID


def test_vectors_are_those_of_the_written_out_mathematics(
    tmp_path: Path, tokenizer: Any, films: list[Any]
) -> None:
    biomed.write(tmp_path, tokenizer)
    tower = load_towers(str(tmp_path))
    assert isinstance(tower, OpenClipTower)
    assert isinstance(tower, DualTower)
    assert (tower.dimension, tower.text_token_limit) == (biomed.DIMENSION, 12)
    weights = biomed.tensors()
    pixels = []
    for film in films:
        square = pad_to_square(film, (0.4, 0.5, 0.3)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        values = np.asarray(square, dtype=np.float32) / 255
        pixels.append((values - [0.4, 0.5, 0.3]) / [0.2, 0.25, 0.3])
    batch = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    expected = normalize(biomed.image_features(weights, batch))
    np.testing.assert_allclose(tower.embed_images(films), expected, atol=1e-5)
    ids = torch.tensor([[2, 4, 6, 7, 14, 3]])  # [CLS] no pleural effusion . [SEP]
    vectors = tower.embed_texts(["No pleural effusion.", "heart", "left effusion " * 12])
    expected = normalize(biomed.text_features(weights, ids))
    np.testing.assert_allclose(vectors[:1], expected, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_loaded_tower_keeps_its_identity_and_other_statistics_change_it(
    tmp_path: Path, tokenizer: Any
) -> None:
    biomed.write(tmp_path, tokenizer)
    tower = load_towers(str(tmp_path))
    assert tower.identity == load_towers(tower.source).identity
    stated = biomed.settings()
    stated["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    assert load_towers(str(tmp_path)).identity != tower.identity


def renamed(state: dict[str, Any]) -> None:
    state["visual.trunk.blocks.1.attn.out.weight"] = state.pop(
        "visual.trunk.blocks.1.attn.proj.weight"
    )


def missing(state: dict[str, Any]) -> None:
    del state["text.transformer.encoder.layer.1.output.LayerNorm.bias"]


def reshaped(state: dict[str, Any]) -> None:
    state["text.proj.2.weight"] = state["text.proj.2.weight"].T.contiguous()


def added(state: dict[str, Any]) -> None:
    state["visual.trunk.blocks.0.ls1.gamma"] = torch.ones(biomed.WIDTH)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (renamed, r"'visual.trunk.blocks.1.attn.proj.weight' is missing"),
        (missing, r"'text.transformer.encoder.layer.1.output.LayerNorm.bias' is missing"),
        (reshaped, r"'text.proj.2.weight' has the shape \(74, 20\), not \(20, 74\)"),
        (added, r"'visual.trunk.blocks.0.ls1.gamma' has no place"),
    ],
)
def test_every_tensor_is_accounted_for_by_its_own_name(
    damage: Any, message: str, tmp_path: Path, tokenizer: Any
) -> None:
    state = biomed.tensors()
    damage(state)
    biomed.write(tmp_path, tokenizer, state)
    with pytest.raises(TowerError, match=message):
        load_towers(str(tmp_path))


def test_what_older_libraries_stored_beside_the_weights_changes_nothing(
    tmp_path: Path, tokenizer: Any
) -> None:
    biomed.write(tmp_path / "plain", tokenizer)
    positions = torch.arange(biomed.POSITIONS)[None]
    state = biomed.tensors() | {"text.transformer.embeddings.position_ids": positions}
    biomed.write(tmp_path / "older", tokenizer, state)
    plain, older = (load_towers(str(tmp_path / name)) for name in ("plain", "older"))
    assert plain.identity == older.identity


@pytest.mark.parametrize(
    ("part", "setting", "value", "message"),
    [
        ("vision_cfg", "timm_model_name", "vit_base_patch16_siglip_224", "plain ViTs are read"),
        ("vision_cfg", "timm_pool", "avg", "timm_pool 'avg'"),
        ("vision_cfg", "image_size", 224, "images of 224 pixels, the tensors are for 32"),
        ("vision_cfg", "reg_tokens", 4, "'reg_tokens' in vision_cfg"),
        ("text_cfg", "hf_model_name", "roberta-base", "'roberta-base'; a BERT"),
        ("text_cfg", "hf_pooler_type", "max_pooler", "pooler 'max_pooler'"),
        ("text_cfg", "hf_proj_type", "none", "projection 'none'"),
        ("text_cfg", "tokenizer_kwargs", {"strip": True}, "'tokenizer_kwargs' in text_cfg"),
    ],
)
def test_settings_that_are_not_read_are_refused_by_name(
    part: str, setting: str, value: Any, message: str, tmp_path: Path, tokenizer: Any
) -> None:
    biomed.write(tmp_path, tokenizer)
    stated = biomed.settings()
    stated["model_cfg"][part][setting] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    with pytest.raises(TowerError, match=message):
        load_towers(str(tmp_path))


def test_the_config_of_the_bert_says_how_many_heads_it_has(tmp_path: Path, tokenizer: Any) -> None:
    biomed.write(tmp_path, tokenizer)
    derived = load_towers(str(tmp_path)).embed_texts(["heart size is normal"])
    given = {"model_type": "bert", "num_attention_heads": 2, "hidden_size": biomed.WIDTH}
    (tmp_path / "config.json").write_text(json.dumps(given))
    np.testing.assert_array_equal(
        load_towers(str(tmp_path)).embed_texts(["heart size is normal"]), derived
    )
    (tmp_path / "config.json").write_text(json.dumps({**given, "num_attention_heads": 4}))
    other = load_towers(str(tmp_path)).embed_texts(["heart size is normal"])
    assert np.abs(other - derived).max() > 1e-4
    (tmp_path / "config.json").write_text(json.dumps({**given, "hidden_size": 64}))
    with pytest.raises(TowerError, match=r"config\.json states hidden_size 64"):
        load_towers(str(tmp_path))


def test_a_pickle_is_opened_only_when_asked_for(tmp_path: Path, tokenizer: Any) -> None:
    biomed.write(tmp_path, tokenizer)
    safe = load_towers(str(tmp_path)).identity
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save(biomed.tensors(), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(TowerError, match=r"only there as a pickle .* open_clip_safetensors"):
        load_towers(str(tmp_path))
    assert OpenClipTower.load(str(tmp_path), allow_pickle=True).identity == safe
    open_clip_safetensors(tmp_path)
    assert load_towers(str(tmp_path)).identity == safe


def test_a_pickle_of_anything_but_tensors_is_not_believed(tmp_path: Path, tokenizer: Any) -> None:
    biomed.write(tmp_path, tokenizer)
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save({"model": tmp_path}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(TowerError, match="cannot be read"):
        open_clip_safetensors(tmp_path)


def test_a_limit_beyond_the_context_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    biomed.write(tmp_path, tokenizer)
    assert OpenClipTower.load(str(tmp_path), text_token_limit=8).text_token_limit == 8
    with pytest.raises(TowerError, match="at most 12 tokens"):
        OpenClipTower.load(str(tmp_path), text_token_limit=13)
