"""Checkpoints that open_clip alone can build: with the library, and what is said without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from mrrag_llamaindex.doctor.towers import examine_towers
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.kinds.open_clip_library import OpenClipLibraryTower
from mrrag_llamaindex.towers.loading import load_towers
from tests.tiny import native_clip as clip

TRUNKS = {
    "convnext": {"timm_model_name": "test_convnext", "timm_pool": "", "image_size": 64},
    "eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "image_size": 224},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
}
WEIGHTS = "open_clip_model.safetensors"


def write(folder: Path, vision: dict[str, Any], **text: Any) -> None:
    """The settings of such a checkpoint beside the tokenizer, and the tensors of another."""
    clip.write(folder)
    stated = clip.settings()
    stated["model_cfg"]["vision_cfg"] = vision
    stated["model_cfg"]["text_cfg"] |= text
    (folder / "open_clip_config.json").write_text(json.dumps(stated))


@pytest.mark.parametrize("apart", [False, True], ids=["joined", "apart"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_vectors_are_those_of_the_library(
    trunk: str, apart: bool, tmp_path: Path, films: list[Any]
) -> None:
    library = pytest.importorskip("open_clip", reason="the extra open-clip", exc_type=Exception)
    write(tmp_path, TRUNKS[trunk])
    model_cfg = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = library.model.CustomTextCLIP if apart else library.model.CLIP
        model = kind(**model_cfg).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are not trivial either
                torch.nn.init.normal_(parameter, 0.5, 0.2)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / WEIGHTS)
    tower = load_towers(str(tmp_path))
    assert isinstance(tower, OpenClipLibraryTower)
    assert (tower.dimension, tower.text_token_limit) == (clip.DIMENSION, clip.TOKENS)
    pixels = tower.images(films)["pixel_values"]
    assert pixels.shape[2:] == (TRUNKS[trunk]["image_size"],) * 2
    ids = torch.tensor([[5, 1, 2, 3, 6, *[0] * (clip.TOKENS - 5)]])
    with torch.no_grad():
        images, text = normalize(model.encode_image(pixels)), normalize(model.encode_text(ids))
    np.testing.assert_allclose(tower.embed_images(films), images, atol=1e-5)
    np.testing.assert_allclose(tower.embed_texts(["no pleural effusion"]), text, atol=1e-5)
    assert load_towers(str(tmp_path)).identity == tower.identity
    told = examine_towers(str(tmp_path), "cpu")
    assert told.loadable
    assert told.draft.dimension == clip.DIMENSION
    # What is missing, or left over, is an error, whatever the library would make of it.
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, "visual.more": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(TowerError, match=r"visual\.more"):
        load_towers(str(tmp_path))
    del tensors["logit_scale"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(TowerError, match="logit_scale"):
        load_towers(str(tmp_path))


@pytest.mark.parametrize(("trunk", "name"), [("convnext", "test_convnext"), ("resnet", "ResNet")])
def test_an_absent_extra_is_named(
    trunk: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, TRUNKS[trunk])
    for module in ("open_clip", "open_clip.model"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TowerError, match=rf"{name}, which open_clip reads.*\[open-clip\]"):
        load_towers(str(tmp_path))


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"timm_model_name": "hf-hub:someone/model"}, {}, "no name of timm's"),
        ({"timm_model_name": "convnext_tiny", "act_kwargs": {}}, {}, "'act_kwargs' in vision_cfg"),
        ({"timm_model_name": "convnext_tiny", "image_size": [64, 96]}, {}, "squares are read"),
        ({"timm_model_name": "convnext_tiny"}, {"pool_type": "last"}, "pool_type 'last'"),
        ({"timm_model_name": "convnext_tiny"}, {"tokenizer_mode": "clean"}, "'tokenizer_mode'"),
        ({"layers": 2, "width": 128}, {"hf_model_name": "someone/bert"}, "from the hub"),
    ],
)
def test_what_is_not_read_is_refused_by_name_before_any_library(
    vision: dict[str, Any], text: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, vision, **text)
    for read in (load_towers, examine_towers):
        with pytest.raises(TowerError, match=message):
            read(str(tmp_path), device="cpu")
