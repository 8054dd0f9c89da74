"""`FrozenTower`: heads and exactly those encoders that they were fitted on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead
from mrrag_llamaindex.towers.protocol import DualTower
from mrrag_llamaindex.towers.text_windows import TextWindows

TEXTS = ["no pleural effusion", "heart size is normal", "shows left pleural effusion " * 9]
Make = Callable[..., FrozenTower]


def heads(image: int, text: int, dimension: int = 6, seed: int = 0) -> FittedHeads:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FittedHeads(
            ProjectionHead(image, dimension), ProjectionHead(text, dimension, hidden=5), {"n": 1}
        )


@pytest.fixture
def encoders(tmp_path: Path, tokenizer: Any) -> tuple[Path, Path]:
    """Folders of a small ResNet and a small BERT."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
        config = BertConfig(
            vocab_size=15,
            hidden_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
        )
        bert = BertModel(config)
    image, text = tmp_path / "resnet", tmp_path / "bert"
    resnet.save_pretrained(image)
    ImagePreparation.square(48).save(image)
    bert.save_pretrained(text)
    tokenizer.save_pretrained(text)
    return image, text


@pytest.fixture
def make(encoders: tuple[Path, Path]) -> Make:
    def build(seed: int = 0, **text: Any) -> FrozenTower:
        return FrozenTower(
            TransformersImageBackbone.load(str(encoders[0]), size=32),
            TransformersTextBackbone.load(str(encoders[1]), **text),
            heads(16, 12, seed=seed),
        )

    return build


def test_vectors_are_the_normalised_heads_of_the_features(make: Make, films: list[Any]) -> None:
    tower = make()
    assert isinstance(tower, DualTower)
    expected = tower._heads["image"](tower.image_backbone.features(films, 2))
    expected = torch.nn.functional.normalize(expected, dim=1).numpy()
    vectors = tower.embed_images(films)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    texts = tower.embed_texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(texts[1:2], tower.embed_texts(TEXTS[1:2]), atol=2e-6)
    assert tower.embed_images([]).shape == tower.embed_texts([]).shape == (0, 6)


def test_features_of_a_long_text_are_the_mean_of_its_windows(make: Make) -> None:
    backbone = make().text_backbone
    words = ("shows left pleural effusion " * 5).split()  # 20 words, 14 in a window
    first, rest = backbone.features([" ".join(words[:14]), " ".join(words[14:])])
    whole = backbone.features([" ".join(words)])[0]
    torch.testing.assert_close(whole, (14 * first + 6 * rest) / 20, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("copy", [False, True], ids=["referring", "standing alone"])
def test_saving_and_loading_keeps_identity_and_vectors(
    make: Make, films: list[Any], tmp_path: Path, copy: bool, encoders: tuple[Path, Path]
) -> None:
    tower = make(long_text="truncate", text_token_limit=9)
    tower.save(tmp_path / "towers", copy_backbones=copy)
    folder = tmp_path / "towers"
    if copy:
        for encoder in encoders:
            shutil.rmtree(encoder)
        folder = folder.rename(tmp_path / "moved")
    again = load_towers(str(folder))
    assert isinstance(again, FrozenTower)
    assert again.identity == tower.identity
    assert again.source == str(folder)
    assert (again.text_token_limit, again.long_text, again.dimension) == (9, "truncate", 6)
    np.testing.assert_array_equal(again.embed_images(films), tower.embed_images(films))
    np.testing.assert_array_equal(again.embed_texts(TEXTS), tower.embed_texts(TEXTS))


@pytest.mark.slow
def test_identity_follows_heads_encoders_and_settings(make: Make) -> None:
    identity = make().identity
    assert identity.startswith("frozen@")
    assert make().identity == identity
    changed = [make(seed=1), make(long_text="truncate"), make(pooling="cls")]
    assert all(tower.identity != identity for tower in changed)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "text"])
def test_changed_encoder_weights_are_an_error(
    make: Make, encoders: tuple[Path, Path], tmp_path: Path, which: int
) -> None:
    make().save(tmp_path / "towers")
    file = encoders[which] / "model.safetensors"
    state = load_file(file)
    name = next(key for key in sorted(state) if key.endswith("weight") and "pooler" not in key)
    state[name] = state[name] + 1e-6
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(TowerError, match="has other weights than those that the heads"):
        load_towers(str(tmp_path / "towers"))


def test_a_changed_encoder_config_is_an_error_and_new_fields_are_not(
    make: Make, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    tower = make()
    tower.save(tmp_path / "towers")
    path = tmp_path / "towers" / "tower.json"
    told = json.loads(path.read_text())
    told["text_backbone"]["config"].pop("use_cache", None)  # as if an older release had not it
    told["text_backbone"]["config"]["of_an_older_release"] = 1
    path.write_text(json.dumps(told))
    load_towers(str(tmp_path / "towers"))
    config = json.loads((encoders[1] / "config.json").read_text())
    config["hidden_act"] = "relu"
    (encoders[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(TowerError, match="another 'hidden_act'"):
        load_towers(str(tmp_path / "towers"))


def test_lost_files_are_named(make: Make, encoders: tuple[Path, Path], tmp_path: Path) -> None:
    make().save(tmp_path / "referring")
    make().save(tmp_path / "alone", copy_backbones=True)
    shutil.rmtree(tmp_path / "alone" / "backbones" / "text_backbone")
    with pytest.raises(TowerError, match="has lost its folder"):
        load_towers(str(tmp_path / "alone"))
    shutil.rmtree(encoders[0])
    with pytest.raises(TowerError, match="no such folder"):
        load_towers(str(tmp_path / "referring"))
    (tmp_path / "referring" / "heads.safetensors").write_bytes(b"")
    with pytest.raises(TowerError, match="cannot be read"):
        load_towers(str(tmp_path / "referring"))


def test_encoders_in_memory_must_be_copied(tmp_path: Path, tokenizer: Any) -> None:
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    bert = BertModel(BertConfig(vocab_size=15, hidden_size=8, num_attention_heads=1))
    tower = FrozenTower(
        TransformersImageBackbone(resnet, ImagePreparation.square(32)),
        TransformersTextBackbone(bert, TextWindows(tokenizer, 16)),
        heads(8, 8),
    )
    with pytest.raises(TowerError, match="copy_backbones=True"):
        tower.save(tmp_path)
    assert not (tmp_path / "tower.json").exists()
    tower.save(tmp_path, copy_backbones=True)
    assert load_towers(str(tmp_path)).identity == tower.identity


def test_heads_must_fit_the_encoders(make: Make) -> None:
    tower = make()
    with pytest.raises(ValueError, match="image head takes 15 features"):
        FrozenTower(tower.image_backbone, tower.text_backbone, heads(15, 12))
    uneven = FittedHeads(ProjectionHead(16, 6), ProjectionHead(12, 7), {})
    with pytest.raises(ValueError, match="differ in dimension"):
        FrozenTower(tower.image_backbone, tower.text_backbone, uneven)


def test_wrong_inputs_are_named(make: Make) -> None:
    tower = make()
    with pytest.raises(InputError, match="text 2 of 2 is empty"):
        tower.embed_texts(["heart", ""])
    with pytest.raises(InputError, match="single string"):
        tower.embed_texts("heart")
    with pytest.raises(InputError, match="image 1 of 1 is str"):
        tower.embed_images(["a.png"])  # type: ignore[list-item]


@pytest.mark.parametrize("pooling", ["pooler", "mean", "cls"])
def test_vision_transformers_serve_with_each_pooling(
    pooling: str, tmp_path: Path, films: list[Any]
) -> None:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    model = ViTModel(config, add_pooling_layer=pooling == "pooler").eval()
    model.save_pretrained(tmp_path)
    ImagePreparation.square(32).save(tmp_path)
    backbone = TransformersImageBackbone.load(str(tmp_path), pooling)
    with torch.no_grad():
        output = model(ImagePreparation.square(32)(films)["pixel_values"])
    hidden = output.last_hidden_state
    expected = {"pooler": output.pooler_output, "mean": hidden.mean(1), "cls": hidden[:, 0]}
    torch.testing.assert_close(backbone.features(films), expected[pooling], atol=1e-5, rtol=1e-4)
    if pooling != "pooler":
        with pytest.raises(TowerError, match=r"missing .* pooler"):
            TransformersImageBackbone.load(str(tmp_path))


class Brightness:
    """An encoder of one's own: mean and deviation of the grey values."""

    dimension = 2

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def features(self, images: Sequence[Image.Image], batch_size: int = 32) -> torch.Tensor:
        grey = [np.asarray(image.convert("L"), dtype=np.float32) for image in images]
        return torch.tensor([[float(one.mean()), float(one.std())] for one in grey])

    def reference(self) -> dict[str, Any]:
        return {"type": "brightness", "source": "own code", "sha256": self.version}

    def to(self, device: str) -> Brightness:
        return self

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def test_an_encoder_of_ones_own_is_given_again_at_loading(
    make: Make, films: list[Any], tmp_path: Path
) -> None:
    tower = FrozenTower(Brightness(), make().text_backbone, heads(2, 12))
    tower.save(tmp_path / "own")
    with pytest.raises(TowerError, match=r"type 'brightness'.*image_backbone="):
        FrozenTower.load(tmp_path / "own")
    again = FrozenTower.load(tmp_path / "own", image_backbone=Brightness())
    np.testing.assert_array_equal(again.embed_images(films), tower.embed_images(films))
    with pytest.raises(TowerError, match="other weights"):
        FrozenTower.load(tmp_path / "own", image_backbone=Brightness("2"))
