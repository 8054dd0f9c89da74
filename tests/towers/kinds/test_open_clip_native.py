"""OpenAI's CLIP in the layout of open_clip, read into the class that transformers has for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from mrrag_llamaindex.doctor.towers import examine_towers
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.images.load import pad_to_square
from mrrag_llamaindex.towers.kinds.hf_dual import HFDualTower
from mrrag_llamaindex.towers.loading import load_towers
from tests.tiny import native_clip as clip

SIZE = clip.PATCH * clip.GRID
MEAN = (0.5, 0.4, 0.3)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_vectors_are_those_of_the_written_out_mathematics(
    quick_gelu: bool, tmp_path: Path, films: list[Any]
) -> None:
    clip.write(tmp_path, quick_gelu=quick_gelu)
    tower = load_towers(str(tmp_path))
    assert isinstance(tower, HFDualTower)
    assert (tower.dimension, tower.text_token_limit) == (clip.DIMENSION, clip.TOKENS)
    weights = clip.tensors()
    pixels = []
    for film in films:
        square = pad_to_square(film, MEAN).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels.append((np.asarray(square, dtype=np.float32) / 255 - MEAN) / 0.25)
    batch = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    expected = normalize(clip.image_features(weights, batch, quick_gelu))
    np.testing.assert_allclose(tower.embed_images(films), expected, atol=1e-5)
    vectors = tower.embed_texts(["heart", "no pleural effusion"])
    for vector, ids in zip(vectors, ([[5, 4, 6]], [[5, 1, 2, 3, 6]]), strict=True):
        expected = normalize(clip.text_features(weights, torch.tensor(ids), quick_gelu))[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert load_towers(tower.source).identity == tower.identity


def test_a_text_encoder_that_is_kept_apart_is_the_same_model(tmp_path: Path) -> None:
    clip.write(tmp_path / "joined")
    clip.write(tmp_path / "apart", root="text.")
    joined, apart = (load_towers(str(tmp_path / name)) for name in ("joined", "apart"))
    assert joined.identity == apart.identity


@pytest.mark.parametrize(
    ("part", "setting", "value", "message"),
    [
        ("vision_cfg", "ls_init_value", 0.1, "'ls_init_value' in vision_cfg"),
        ("text_cfg", "pool_type", "last", "'pool_type' in text_cfg"),
        ("text_cfg", "heads", 5, "heads or images that do not fit"),
    ],
)
def test_settings_that_are_not_read_are_refused_by_name(
    part: str, setting: str, value: Any, message: str, tmp_path: Path
) -> None:
    clip.write(tmp_path)
    stated = clip.settings()
    stated["model_cfg"][part][setting] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    with pytest.raises(TowerError, match=message):
        load_towers(str(tmp_path))


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    clip.write(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TowerError, match="15 tokens, the text encoder 7"):
        load_towers(str(tmp_path))


def test_the_doctor_describes_it(tmp_path: Path) -> None:
    clip.write(tmp_path)
    draft = examine_towers(str(tmp_path), "cpu").draft
    assert (draft.kind, draft.dimension, draft.tokens) == ("clip", clip.DIMENSION, clip.TOKENS)
    assert draft.image_size == (SIZE, SIZE)
    assert sum(draft.parameters.values()) == sum(t.numel() for t in clip.tensors().values())


def test_the_training_state_of_another_program_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "swint_mcc.tar").write_bytes(b"never opened")
    with pytest.raises(TowerError, match=r"swint_mcc\.tar is a pickle .* save_pretrained"):
        load_towers(str(tmp_path))
