"""`ResNetBertTower` and what all torch towers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ConvNextImageProcessorPil, ResNetConfig, ResNetModel

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
from mrrag_llamaindex.towers.protocol import DualTower

Make = Callable[..., ResNetBertTower]
TEXTS = ["No pleural effusion.", "heart size is normal", "shows left pleural effusion " * 20]


def test_vectors_are_float32_unit_rows_in_order(resnet_bert: Make, films: list[Any]) -> None:
    tower = resnet_bert()
    assert isinstance(tower, DualTower)
    for embed, inputs in ((tower.embed_images, films), (tower.embed_texts, TEXTS)):
        vectors = embed(inputs)
        assert vectors.shape == (len(inputs), 12)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        one_by_one = np.concatenate([embed([item], batch_size=1) for item in inputs])
        np.testing.assert_allclose(vectors, one_by_one, atol=2e-6)
        np.testing.assert_array_equal(vectors, embed(inputs))
    assert tower.embed_images([]).shape == tower.embed_texts([]).shape == (0, 12)


def test_a_text_vector_is_the_normalised_projection_of_the_mean_state(resnet_bert: Make) -> None:
    tower = resnet_bert()
    network = tower.network
    ids = torch.tensor([[2, 4, 6, 7, 14, 3]])  # [CLS] no pleural effusion . [SEP]
    with torch.no_grad():
        hidden = network.text_encoder(input_ids=ids).last_hidden_state
        expected = network.text_projection(hidden.mean(dim=1))[0]
    expected = expected / expected.norm()
    np.testing.assert_allclose(tower.embed_texts(TEXTS[:1])[0], expected.numpy(), atol=1e-6)


def test_a_long_text_is_the_mean_of_its_windows(resnet_bert: Make) -> None:
    tower = resnet_bert()
    words = ("shows left pleural effusion " * 5).split()  # 20 words, 14 in a window
    first, rest = tower.embed_texts([" ".join(words[:14]), " ".join(words[14:])])
    expected = (14 * first + 6 * rest) / np.linalg.norm(14 * first + 6 * rest)
    np.testing.assert_allclose(tower.embed_texts([" ".join(words)])[0], expected, atol=1e-6)
    cut = resnet_bert(long_text="truncate")
    np.testing.assert_allclose(cut.embed_texts([" ".join(words)])[0], first, atol=1e-6)


def test_the_end_of_a_long_report_counts(resnet_bert: Make) -> None:
    report = "heart size is normal " * 10
    vectors = resnet_bert().embed_texts([report, report + "shows pleural effusion"])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_both_sides_of_a_wide_film_count(resnet_bert: Make) -> None:
    tower = resnet_bert()
    wide = Image.new("RGB", (200, 80), (90, 90, 90))
    left, right = wide.copy(), wide.copy()
    left.paste((250, 250, 250), (0, 0, 15, 80))
    right.paste((250, 250, 250), (185, 0, 200, 80))
    vectors = tower.embed_images([wide, left, right])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_saving_and_loading_keeps_identity_and_vectors(
    resnet_bert: Make, films: list[Any], tmp_path: Path
) -> None:
    tower = resnet_bert(seed=3, text_pooling="cls", long_text="truncate")
    assert tower.source == ""
    tower.save(tmp_path / "towers")
    again = ResNetBertTower.load(tmp_path / "towers")
    assert again.identity == tower.identity
    assert again.source == tower.source == str((tmp_path / "towers").resolve())
    assert (again.long_text, again.text_token_limit, again.dimension) == ("truncate", 16, 12)
    np.testing.assert_array_equal(again.embed_images(films), tower.embed_images(films))
    np.testing.assert_array_equal(again.embed_texts(TEXTS), tower.embed_texts(TEXTS))
    again.save(tmp_path / "copy")
    assert ResNetBertTower.load(tmp_path / "copy").identity == tower.identity


def test_identity_follows_weights_and_settings(resnet_bert: Make) -> None:
    tower = resnet_bert()
    name, digits = tower.identity.split("@")
    assert name == "resnet-bert"
    assert len(bytes.fromhex(digits)) == 8
    assert resnet_bert().identity == tower.identity
    for changed in (
        {"seed": 1},
        {"long_text": "truncate"},
        {"text_token_limit": 9},
        {"text_pooling": "cls"},
    ):
        assert resnet_bert(**changed).identity != tower.identity


def test_training_changes_vectors_and_identity_and_reaches_every_weight(
    resnet_bert: Make, films: list[Any]
) -> None:
    tower = resnet_bert()
    before, vectors = tower.identity, tower.embed_images(films)
    tower.network.train()
    batch = tower.texts.batch(tower.texts.split(TEXTS))
    pixels = tower.images(films[:3])["pixel_values"]
    assert pixels.shape == (3, 3, 48, 48)
    optimizer = torch.optim.SGD(tower.network.parameters(), lr=0.1)
    image = torch.nn.functional.normalize(tower.network.image_features(pixels), dim=1)
    # The third text has several windows; the first three windows do here.
    text = tower.network.text_features(
        batch["input_ids"][:3].contiguous(), batch["attention_mask"][:3].contiguous()
    )
    logits = image @ torch.nn.functional.normalize(text, dim=1).T / tower.network.temperature
    torch.nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    missing = [name for name, p in tower.network.named_parameters() if p.grad is None]
    assert missing == []
    optimizer.step()
    assert tower.identity != before
    assert np.abs(tower.embed_images(films) - vectors).max() > 1e-6


def test_embedding_is_in_evaluation_mode_and_leaves_training_mode_as_it_was(
    resnet_bert: Make, films: list[Any]
) -> None:
    tower = resnet_bert()
    expected = tower.embed_images(films)
    tower.network.train()
    tower.network.image_encoder.eval()
    np.testing.assert_array_equal(tower.embed_images(films), expected)
    assert tower.network.training
    assert tower.network.text_encoder.training
    assert not tower.network.image_encoder.training


def test_making_towers_leaves_the_global_generator_alone(resnet_bert: Make) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    resnet_bert()
    assert torch.equal(torch.rand(3), expected)


def test_the_device_argument_moves_the_weights(resnet_bert: Make) -> None:
    assert {p.device.type for p in resnet_bert(device="meta").network.parameters()} == {"meta"}
    assert resnet_bert(device="auto").device in ("cpu", "cuda")
    with pytest.raises(TowerError, match="'warp:3' is not available"):
        resnet_bert(device="warp:3")


def test_a_vector_that_is_no_embedding_is_an_error(resnet_bert: Make, films: list[Any]) -> None:
    tower = resnet_bert()
    with torch.no_grad():
        tower.network.text_projection.weight.zero_()
        tower.network.text_projection.bias.zero_()
        tower.network.image_projection.bias.fill_(float("nan"))
    with pytest.raises(TowerError, match="zero for text 1 of 3"):
        tower.embed_texts(TEXTS)
    with pytest.raises(TowerError, match="not finite for image 1 of 5"):
        tower.embed_images(films)


def test_wrong_inputs_are_named(resnet_bert: Make, films: list[Any]) -> None:
    tower = resnet_bert()
    with pytest.raises(InputError, match="single string"):
        tower.embed_texts("No pleural effusion.")
    with pytest.raises(InputError, match="image 2 of 2 is str"):
        tower.embed_images([films[0], "a.png"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="batch_size"):
        tower.embed_images(films, batch_size=0)


def test_wrong_settings_are_refused(resnet_bert: Make) -> None:
    with pytest.raises(ValueError, match="at most 16 tokens"):
        resnet_bert(text_token_limit=17)
    with pytest.raises(ValueError, match="text_pooling"):
        resnet_bert(text_pooling="max")


@pytest.mark.parametrize("file", ["tower.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_folder_is_an_error_that_names_it(
    resnet_bert: Make, tmp_path: Path, file: str, damage: str
) -> None:
    resnet_bert().save(tmp_path)
    path = tmp_path / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TowerError, match="cannot be read") as caught:
        ResNetBertTower.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pretrained_encoders_keep_their_weights_and_lose_their_crop(
    resnet_bert: Make, tmp_path: Path, tokenizer: Any
) -> None:
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    resnet.save_pretrained(tmp_path / "resnet")
    ConvNextImageProcessorPil(image_mean=[0.1] * 3, crop_pct=0.5).save_pretrained(
        tmp_path / "resnet"
    )
    bert = BertModel(
        BertConfig(vocab_size=15, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    towers = [
        ResNetBertTower.from_pretrained(
            str(tmp_path / "resnet"), str(tmp_path / "bert"), 6, image_size=32, seed=seed
        )
        for seed in (0, 0, 1)
    ]
    assert towers[0].identity == towers[1].identity != towers[2].identity
    state = towers[2].network.image_encoder.state_dict()
    assert all(torch.equal(state[key], value) for key, value in resnet.state_dict().items())
    assert towers[0].images.settings()["image_mean"] == [0.1] * 3
    assert towers[0].images([Image.new("RGB", (100, 40))])["pixel_values"].shape == (1, 3, 32, 32)
    with pytest.raises(TowerError, match="read as a ResNet and a BERT"):
        ResNetBertTower.from_pretrained(str(tmp_path), str(tmp_path / "bert"))
