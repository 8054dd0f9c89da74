"""ResNet-50 and a clinical BERT, the retriever of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.towers.folders import (
    TOWER_FILE,
    model_folder,
    read_model,
    read_tokenizer,
    reading,
)
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.projected import ProjectedTower
from mrrag_llamaindex.towers.kinds.resnet_bert_network import ResNetBertNetwork
from mrrag_llamaindex.towers.text_windows import TextWindows, token_limit

WEIGHTS_FILE = "model.safetensors"


class ResNetBertTower(ProjectedTower):
    """A ResNet for images and a BERT for texts, each with a linear projection to n dimensions.

    Made by `from_configs` (fresh weights), `from_pretrained` (pretrained encoders, fresh
    projections) or `load` (a folder written by `save`). ``tower.network`` is the trainable
    module; see `ResNetBertNetwork.image_features` and `ResNetBertNetwork.text_features`.

    Parameters
    ----------
    network : ResNetBertNetwork
    images : ImagePreparation
    texts : TextWindows
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.
    """

    name = "resnet-bert"
    network: ResNetBertNetwork

    @classmethod
    def from_configs(
        cls,
        image_config: Any,
        text_config: Any,
        tokenizer: Any,
        images: ImagePreparation,
        dimension: int = 512,
        *,
        text_pooling: str = "mean",
        text_token_limit: int | None = None,
        long_text: str = "mean",
        seed: int = 0,
        device: str = "cpu",
    ) -> Self:
        """Make towers with fresh weights.

        Parameters
        ----------
        image_config : transformers.ResNetConfig
            ``ResNetConfig()`` is ResNet-50.
        text_config : transformers.BertConfig
            ``BertConfig(vocab_size=28996)`` has the shape of Bio_ClinicalBERT.
        tokenizer : PreTrainedTokenizerBase
        images : ImagePreparation
            For example ``ImagePreparation.square(224)``.
        dimension : int
            n.
        text_pooling : {"mean", "cls", "last"}
            See `ResNetBertNetwork`.
        text_token_limit : int, optional
            By default the smaller of the positions of the BERT and the tokenizer's own limit.
        long_text : {"mean", "truncate"}
            See `TextWindows`.
        seed : int
            Of the fresh weights; the global generators are left as they are.
        device : str
            A torch device, or ``"auto"``.

        Raises
        ------
        ValueError
            If the tokenizer has more tokens than the BERT, or a setting is out of range.
        """
        network = _fresh_network(image_config, text_config, dimension, text_pooling, seed)
        texts = _windows(tokenizer, text_config, text_token_limit, long_text)
        return cls(network, images, texts, device=device)

    @classmethod
    def from_pretrained(
        cls,
        image_encoder: str = "microsoft/resnet-50",
        text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT",
        dimension: int = 512,
        *,
        image_size: int = 224,
        text_pooling: str = "mean",
        text_token_limit: int | None = None,
        long_text: str = "mean",
        seed: int = 0,
        device: str = "cpu",
    ) -> Self:
        """Make towers from two pretrained encoders and fresh projections, to be trained.

        The image encoder's channel statistics are taken over, its centre crop is not: films are
        padded to a square, see `ImagePreparation`.

        Parameters
        ----------
        image_encoder, text_encoder : str
            A folder or a hub id each.
        dimension, text_pooling, text_token_limit, long_text, seed, device
            As for `from_configs`; the seed is that of the projections.
        image_size : int
            Pixels on each side.

        Raises
        ------
        TowerError
            If an encoder cannot be found or is of another kind.
        """
        from transformers import BertModel, ResNetModel

        image_folder, text_folder = model_folder(image_encoder), model_folder(text_encoder)
        with reading("a ResNet and a BERT", f"{image_encoder} and {text_encoder}"):
            resnet = read_model(ResNetModel, image_folder)
            bert = read_model(BertModel, text_folder, add_pooling_layer=False)
            tokenizer = read_tokenizer(text_folder)
            stated = ImagePreparation.load(image_folder).processor
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ResNetBertNetwork(resnet, bert, dimension, text_pooling)
        images = ImagePreparation.square(image_size, stated.image_mean, stated.image_std)
        texts = _windows(tokenizer, bert.config, text_token_limit, long_text)
        return cls(network, images, texts, device=device)

    def save(self, folder: str | Path) -> None:
        """Write weights, settings, tokenizer and image preparation into ``folder``.

        Afterwards `source` is that folder. ``tower.json`` is written last, so that a folder in
        which saving was interrupted does not load.
        """
        from safetensors.torch import save_file

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / TOWER_FILE).unlink(missing_ok=True)
        state = self.network.state_dict()
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        with system_errors():
            save_file(tensors, target / WEIGHTS_FILE)
        self.texts.save(target)
        self.images.save(target)
        data = {"kind": self.name, "format": 1, **self.settings()}
        write_atomically(target / TOWER_FILE, json.dumps(data, indent=2) + "\n")
        self.source = str(target.resolve())

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a folder written by `save`.

        Raises
        ------
        TowerError
            If a file is missing, damaged, or does not fit the others.
        """
        from safetensors.torch import load_file
        from transformers import BertConfig, ResNetConfig

        where = Path(folder).resolve()
        with reading("a tower", str(folder)):
            data = json.loads((where / TOWER_FILE).read_text(encoding="utf-8"))
            network = _fresh_network(
                ResNetConfig.from_dict(data["image_config"]),
                BertConfig.from_dict(data["text_config"]),
                data["dimension"],
                data["text_pooling"],
                seed=0,
            )
            network.load_state_dict(load_file(where / WEIGHTS_FILE))
            tokenizer = read_tokenizer(where)
            kept = data["texts"]
            texts = TextWindows(tokenizer, kept["limit"], kept["long_text"], kept["padding"])
            images = ImagePreparation.load(where, pad=data["images"]["pad"])
        tower = cls(network, images, texts, source=str(where), device=device)
        tower._configs = {key: data[key] for key in ("image_config", "text_config")}
        return tower


def _fresh_network(
    image_config: Any, text_config: Any, dimension: int, text_pooling: str, seed: int
) -> ResNetBertNetwork:
    from transformers import BertModel, ResNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNetBertNetwork(
            ResNetModel(image_config),
            BertModel(text_config, add_pooling_layer=False),
            dimension,
            text_pooling,
        )


def _windows(
    tokenizer: Any, text_config: Any, text_token_limit: int | None, long_text: str
) -> TextWindows:
    if len(tokenizer) > text_config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the BERT only {text_config.vocab_size}"
        )
    limit = token_limit(text_config, tokenizer, text_token_limit)
    return TextWindows(tokenizer, limit, long_text)
