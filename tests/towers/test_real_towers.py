"""Real pretrained weights: the mapping is complete, the features mean something."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from mrrag_llamaindex.towers.loading import load_towers
from mrrag_llamaindex.towers.projection_head import FittedHeads, ProjectionHead

pytestmark = pytest.mark.real

FILE = Path(__file__).resolve().parents[1] / "real_towers.py"


@pytest.fixture(scope="module")
def real() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_towers", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.missing_weights():
        pytest.skip(reason)
    return module


def test_every_tensor_of_torchvision_has_one_place(real: ModuleType) -> None:
    stated = torch.load(real.mobilenet_file(), weights_only=True)
    names = [real.transformers_name(name) for name in stated]
    placed = [name for name in names if name is not None]
    assert len(set(placed)) == len(placed) == len(stated) - 2
    model, rest = real.mobilenet()
    assert set(placed) == set(model.state_dict())
    assert sorted(rest) == ["classifier.1.bias", "classifier.1.weight"]


def test_imagenet_classes_of_a_photograph_are_sensible(real: ModuleType) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    photograph = Image.fromarray(datasets.load_sample_image("china.jpg"))
    features = real.image_backbone().features([photograph])
    rest = real.mobilenet()[1]
    logits = features @ rest["classifier.1.weight"].T + rest["classifier.1.bias"]
    # The Summer Palace in Beijing: bell cote 442, church 497, monastery 663, palace 698.
    assert set(logits[0].topk(5).indices.tolist()) >= {497, 663, 698}


def test_paraphrases_are_nearer_than_other_subjects(real: ModuleType) -> None:
    texts = ["Pleural effusion on the left.", "Fluid in the left pleural space.", "Stocks rose."]
    unit = torch.nn.functional.normalize(real.text_backbone().features(texts), dim=1)
    similarity = unit @ unit.T
    assert similarity[0, 1] > 0.6 > 0.3 > similarity[0, 2]


@pytest.mark.slow
def test_a_frozen_tower_of_real_weights_reads_real_films_and_stands_alone(
    real: ModuleType, covid_cxr: Path, tmp_path: Path
) -> None:
    images = sorted((covid_cxr / "images").iterdir())[:4]
    films: list[Any] = [load_image(path) for path in images]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = FittedHeads(ProjectionHead(1280, 32), ProjectionHead(384, 32), {})
    tower = FrozenTower(real.image_backbone(), real.text_backbone(), heads)
    tower.save(tmp_path, copy_backbones=True)
    again = load_towers(str(tmp_path))
    assert again.identity == tower.identity
    assert again.text_token_limit == 256
    np.testing.assert_array_equal(again.embed_images(films), tower.embed_images(films))
    report = "Bilateral ground-glass opacities in the lower lobes. " * 60
    assert again.embed_texts([report]).shape == (1, 32)
