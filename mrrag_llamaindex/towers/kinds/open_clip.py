"""BiomedCLIP and whatever else has its layout: timm's ViT and a BERT, saved by open_clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mrrag_llamaindex.towers.base import TorchTower
from mrrag_llamaindex.towers.folders import (
    absolute_source,
    model_folder,
    read_tokenizer,
    reading,
)
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.kinds.hf_dual import HFDualTower
from mrrag_llamaindex.towers.kinds.projected import ProjectedTower
from mrrag_llamaindex.towers.open_clip.clip import ClipLayout
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder
from mrrag_llamaindex.towers.open_clip.library import check_end_of_text, kind_of_open_clip
from mrrag_llamaindex.towers.open_clip.places import build, placed
from mrrag_llamaindex.towers.open_clip.vit_bert import VitBertLayout
from mrrag_llamaindex.towers.text_pooling import pool_tokens
from mrrag_llamaindex.towers.text_windows import TextWindows, token_limit


class OpenClipNetwork(nn.Module):
    """The weights of an `OpenClipTower`.

    Parameters
    ----------
    image_encoder : transformers.ViTModel
    text_encoder : transformers.BertModel
    layout : VitBertLayout
        For the shapes of the projections and the pooling.
    """

    def __init__(self, image_encoder: Any, text_encoder: Any, layout: VitBertLayout) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.text_pooling = layout.pooling
        width, text_width = image_encoder.config.hidden_size, text_encoder.config.hidden_size
        n, hidden = layout.dimension, layout.text_hidden
        self.image_projection = nn.Linear(width, n, bias=layout.image_bias)
        self.text_projection: nn.Module = nn.Linear(text_width, n, bias=False)
        if hidden is not None:
            self.text_projection = nn.Sequential(
                nn.Linear(text_width, hidden, bias=False),
                nn.GELU(),
                nn.Linear(hidden, n, bias=False),
            )

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Project the class tokens of images (batch, 3, height, width) to (batch, n)."""
        hidden = self.image_encoder(pixel_values).last_hidden_state
        projected: Tensor = self.image_projection(hidden[:, 0])
        return projected

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Project texts of shape (batch, T) to (batch, n)."""
        output = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooled = pool_tokens(output.last_hidden_state, attention_mask, self.text_pooling)
        projected: Tensor = self.text_projection(pooled)
        return projected


class OpenClipTower(ProjectedTower):
    """Towers from a folder with ``open_clip_config.json``, read without open_clip or timm.

    Every stored tensor is compared with its place by name and shape. Images are padded to a
    square and resized (bicubic) to the size of the position embeddings, so that no film is cut.

    Parameters
    ----------
    network : OpenClipNetwork
    images : ImagePreparation
    texts : TextWindows
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.
    """

    name = "open-clip"
    network: OpenClipNetwork

    @classmethod
    def load(
        cls,
        source: str,
        *,
        text_token_limit: int | None = None,
        long_text: str = "mean",
        allow_pickle: bool = False,
        device: str = "cpu",
    ) -> Self:
        """Load from a folder or a hub id.

        Parameters
        ----------
        source : str
            A folder of settings, weights and tokenizer, or a hub id.
        text_token_limit : int, optional
            By default the checkpoint's context length (256 for BiomedCLIP).
        long_text : {"mean", "truncate"}
            See `TextWindows`.
        allow_pickle : bool
            See `OpenClipFolder.read`.
        device : str
            A torch device, or ``"auto"``.

        Raises
        ------
        TowerError
            If it cannot be found, is incomplete, or has another layout.
        """
        from transformers import BertConfig, BertModel, ViTConfig, ViTModel

        folder = model_folder(source)
        with reading("towers in the layout of open_clip", source):
            stored = OpenClipFolder.read(folder, allow_pickle=allow_pickle)
            layout = VitBertLayout.of(stored)
            tokenizer = read_tokenizer(folder)
            image_config = ViTConfig(**layout.image_config)
            text_config = BertConfig(**layout.text_config)
            limit = min(layout.tokens, token_limit(text_config, tokenizer))
            texts = TextWindows(tokenizer, text_token_limit or limit, long_text)
            if texts.limit > limit:
                raise ValueError(
                    f"text_token_limit is {texts.limit}, the encoder reads at most {limit} tokens"
                )
            if len(tokenizer) > text_config.vocab_size:
                raise ValueError(
                    f"the tokenizer has {len(tokenizer)} tokens, the BERT {text_config.vocab_size}"
                )
            tensors = stored.tensors()
            network = OpenClipNetwork(
                build(
                    ViTModel,
                    image_config,
                    placed(layout.image_places, tensors),
                    add_pooling_layer=False,
                ),
                build(
                    BertModel,
                    text_config,
                    placed(layout.text_places, tensors),
                    add_pooling_layer=False,
                ),
                layout,
            )
            with torch.no_grad():
                projections = dict(network.named_parameters())
                for name, tensor in placed(layout.projection_places, tensors).items():
                    projections[name].copy_(tensor)
        images = ImagePreparation.square(layout.image_config["image_size"], stored.mean, stored.std)
        return cls(network, images, texts, source=absolute_source(source), device=device)


def load_open_clip(source: str, device: str = "cpu") -> TorchTower:
    """Load a folder in the layout of open_clip by what it holds.

    Returns
    -------
    TorchTower
        `OpenClipTower`; for OpenAI's CLIP, which transformers has as well, `HFDualTower`; for what
        open_clip alone can build, `OpenClipLibraryTower`.

    Raises
    ------
    TowerError
        If it cannot be found, is incomplete, or has another layout.
    """
    folder = model_folder(source)
    with reading("towers in the layout of open_clip", source):
        stored = OpenClipFolder.read(folder)
        kind = kind_of_open_clip(stored)
    if kind == "vit-bert":
        return OpenClipTower.load(source, device=device)
    if kind == "library":
        from mrrag_llamaindex.towers.kinds.open_clip_library import OpenClipLibraryTower

        return OpenClipLibraryTower.load(source, device=device)
    with reading("towers in the layout of open_clip", source):
        layout = ClipLayout.of(stored)
        tokenizer = read_tokenizer(folder)
        check_end_of_text(tokenizer, layout.config["text_config"]["vocab_size"])
        model = _clip(layout, tokenizer, stored)
    size = layout.config["vision_config"]["image_size"]
    images = ImagePreparation.square(size, stored.mean, stored.std)
    return HFDualTower(
        *(model, tokenizer, images.processor),
        pad=True,
        source=absolute_source(source),
        device=device,
    )


def _clip(layout: ClipLayout, tokenizer: Any, stored: OpenClipFolder) -> Any:
    from transformers import CLIPConfig, CLIPModel

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**layout.config["text_config"], **special}
    config = CLIPConfig(**{**layout.config, "text_config": text})
    return build(CLIPModel, config, placed(layout.places, stored.tensors()))
