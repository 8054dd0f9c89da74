"""Frozen image encoders of the transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.towers.backbones.base import TransformersBackbone
from mrrag_llamaindex.towers.folders import absolute_source, model_folder, read_model, reading
from mrrag_llamaindex.towers.image_preparation import ImagePreparation

IMAGE_POOLINGS = ("pooler", "mean", "cls")


class TransformersImageBackbone(TransformersBackbone):
    """A transformers image encoder (ResNet, MobileNet, ConvNeXT, ViT, DINOv2, ...).

    Parameters
    ----------
    model : PreTrainedModel
        Without a task head.
    images : ImagePreparation
    pooling : {"pooler", "mean", "cls"}
        ``"pooler"`` is the model's own pooled output; ``"mean"`` is over all positions of the
        last hidden state, ``"cls"`` its first token.
    source : str
        Folder or hub id of the weights; empty if they exist in memory only.
    """

    def __init__(
        self, model: Any, images: ImagePreparation, pooling: str = "pooler", source: str = ""
    ) -> None:
        super().__init__(model, pooling, IMAGE_POOLINGS, source)
        self.images = images
        probe = self.features([Image.new("RGB", (64, 64))])
        self.dimension = int(probe.shape[1])

    @classmethod
    def load(cls, source: str, pooling: str = "pooler", size: int | None = None) -> Self:
        """Load from a folder or a hub id.

        Parameters
        ----------
        source : str
        pooling : str
            See the class.
        size : int, optional
            Pad to a square and resize to this many pixels, with the channel statistics of the
            model's processor. By default that processor, after padding to a square.

        Raises
        ------
        TowerError
            If it cannot be found, or is not an image encoder with its processor.
        """
        from transformers import AutoModel

        folder = model_folder(source)
        with reading("a frozen image encoder", source):
            images = ImagePreparation.load(folder)
            if size is not None:
                stated = images.processor
                images = ImagePreparation.square(size, stated.image_mean, stated.image_std)
            model = read_model(AutoModel, folder, pooler=pooling == "pooler")
            return cls(model, images, pooling, absolute_source(source))

    @classmethod
    def restore(cls, weights: Path, preparation: Path, reference: dict[str, Any]) -> Self:
        """Load from a folder with the image preparation of another, as a saved tower says."""
        from transformers import AutoModel

        with reading("a frozen image encoder", str(weights)):
            images = ImagePreparation.load(preparation, pad=reference["images"]["pad"])
            pooling = reference["pooling"]
            model = read_model(AutoModel, weights, pooler=pooling == "pooler")
            return cls(model, images, pooling, str(weights))

    def features(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """See `mrrag_llamaindex.towers.backbones.protocol.ImageBackbone`."""
        if not images:
            return torch.zeros(0, self.dimension)
        starts = range(0, len(images), batch_size)
        # Prepared batch by batch: all films at once would not fit.
        parts = [
            self._run([self.images(images[start : start + batch_size])], self._pool)
            for start in starts
        ]
        return torch.cat(parts)

    def reference(self) -> dict[str, Any]:
        """See `mrrag_llamaindex.towers.backbones.protocol.Backbone`."""
        return {**super().reference(), "images": self.images.settings()}

    def save(self, folder: Path) -> None:
        """Write model and processor into ``folder``."""
        with system_errors():
            self.model.save_pretrained(folder)
        self.images.save(folder)

    def _pool(self, output: Any, _: dict[str, Tensor]) -> Tensor:
        if self.pooling == "pooler":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise TowerError(
                    'this image encoder has no pooled output; choose pooling="mean" or "cls"'
                )
            return torch.flatten(pooled, 1)
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:  # convolutional: (batch, d, height, width)
            hidden = hidden.flatten(2).transpose(1, 2)
        return hidden.mean(dim=1) if self.pooling == "mean" else hidden[:, 0]
