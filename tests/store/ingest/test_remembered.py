"""Ingest of what towers were trained on: features that training has cached are used again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.learning.towers.heads.recipe import HeadShape, train_heads
from mrrag_llamaindex.learning.towers.settings import TrainingRun, for_heads
from mrrag_llamaindex.learning.towers.training_pairs import training_pairs
from mrrag_llamaindex.store.ingest.embedding import embed_pairs
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.loading import load_towers
from tests.tiny.tokenizers import words
from tests.tiny.towers import films

REPORTS = ("no pleural effusion", "left pleural effusion", "heart size is normal", "right heart")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[Path, list[Pair]]:
    """Folder of trained towers, and the pairs that they were trained on."""
    root = tmp_path_factory.mktemp("trained")
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ).save_pretrained(root / "resnet")
    ImagePreparation.square(48).save(root / "resnet")
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=15, intermediate_size=16, max_position_embeddings=16, **small)
    BertModel(config).save_pretrained(root / "bert")
    words().save_pretrained(root / "bert")
    pairs = []
    for number, film in enumerate(films(16)):
        film.save(root / f"{number}.png")
        report = f"{REPORTS[number % 4]} {'normal ' * number}"
        pairs.append(Pair(root / f"{number}.png", report, f"p{number}", f"m{number}"))
    settings = replace(for_heads(batch_size=8), max_epochs=2, validation=0.2, test=0.2)
    train_heads(
        TransformersImageBackbone.load(str(root / "resnet")),
        TransformersTextBackbone.load(str(root / "bert")),
        training_pairs(pairs),
        settings,
        TrainingRun(root / "towers"),
        HeadShape(8, None, 0.5, 4, True),
    )
    return root / "towers", pairs


def counted(towers: Any) -> dict[str, int]:
    """Count the inputs that the encoders of towers are given from here on."""
    seen = {"image": 0, "text": 0}
    for kind in seen:
        backbone = getattr(towers, f"{kind}_backbone")

        def features(
            inputs: Any, *rest: Any, kind: str = kind, run: Any = backbone.features
        ) -> Any:
            seen[kind] += len(inputs)
            return run(inputs, *rest)

        backbone.features = features
    return seen


@pytest.mark.slow
def test_the_encoders_do_not_run_again_and_the_vectors_are_the_same(
    trained: tuple[Path, list[Pair]], tmp_path: Path
) -> None:
    folder, pairs = trained
    towers = load_towers(str(folder))
    seen = counted(towers)
    fast = embed_pairs(pairs, towers)
    assert seen == {"image": 0, "text": 0}
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("training"))
    bare = load_towers(str(tmp_path / "bare"))
    slow_seen = counted(bare)
    slow = embed_pairs(pairs, bare)
    assert slow_seen == {"image": 16, "text": 16}
    assert bare.identity == towers.identity
    np.testing.assert_allclose(fast.image_vectors, slow.image_vectors, atol=1e-6)
    np.testing.assert_allclose(fast.text_vectors, slow.text_vectors, atol=1e-6)
    again = embed_pairs(pairs[5:9], load_towers(str(folder)))
    np.testing.assert_allclose(again.image_vectors, fast.image_vectors[5:9], atol=1e-6)


def test_only_what_is_new_is_computed(trained: tuple[Path, list[Pair]], tmp_path: Path) -> None:
    folder, pairs = trained
    towers = load_towers(str(folder))
    seen = counted(towers)
    assert pairs[0].image is not None
    Image.new("RGB", (30, 30), (9, 80, 7)).save(tmp_path / "new.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    mixed = [
        Pair(tmp_path / "new.png", pairs[3].report, "a"),
        Pair(pairs[4].image, "no heart", "b"),
        Pair(tmp_path / "broken.png", "no heart", "c"),
        Pair(None, pairs[5].report, "d"),
    ]
    made = embed_pairs(mixed, towers)
    assert seen == {"image": 1, "text": 1}
    assert list(made.problems) == [2]
    known = embed_pairs(pairs, towers)
    np.testing.assert_allclose(made.image_vectors[1], known.image_vectors[4], atol=1e-6)
    np.testing.assert_allclose(made.text_vectors[3], known.text_vectors[5], atol=1e-6)
    assert not made.image_vectors[3].any()
    np.testing.assert_allclose(
        made.image_vectors[0],
        towers.embed_images([Image.open(tmp_path / "new.png").convert("RGB")])[0],
        atol=1e-6,
    )


def test_an_image_read_with_other_options_is_another_one(
    trained: tuple[Path, list[Pair]],
) -> None:
    folder, pairs = trained
    towers = load_towers(str(folder))
    seen = counted(towers)
    embed_pairs(pairs[:3], towers, ReadingOptions(frame=1))
    assert seen == {"image": 3, "text": 0}


def test_other_encoders_do_not_meet_the_features(
    trained: tuple[Path, list[Pair]], tmp_path: Path
) -> None:
    folder, pairs = trained
    shutil.copytree(folder, tmp_path / "other")
    for cache in (tmp_path / "other" / "training" / "features").iterdir():
        cache.rename(cache.with_name(cache.name[:-1] + ("0" if cache.name[-1] != "0" else "1")))
    towers = load_towers(str(tmp_path / "other"))
    seen = counted(towers)
    embed_pairs(pairs[:3], towers)
    assert seen == {"image": 3, "text": 3}


def test_damaged_features_are_named_and_not_passed_over(
    trained: tuple[Path, list[Pair]], tmp_path: Path
) -> None:
    folder, pairs = trained
    shutil.copytree(folder, tmp_path / "hurt")
    file = next((tmp_path / "hurt" / "training" / "features").glob("image-*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(TowerError, match=f"{file.name}.*remove the file"):
        embed_pairs(pairs[:3], load_towers(str(tmp_path / "hurt")))
