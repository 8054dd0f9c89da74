"""An image encoder and a BERT, each with a projection: what such towers share."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from mrrag_llamaindex.towers.base import TorchTower
from mrrag_llamaindex.towers.identity import config_facts
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.text_windows import TextWindows


class Projected(Protocol):
    """A network of two transformers models and their projections into n dimensions."""

    image_encoder: Any
    text_encoder: Any
    image_projection: nn.Linear
    text_pooling: str

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Project images of shape (batch, 3, height, width) to (batch, n)."""
        ...

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Project texts of shape (batch, T) to (batch, n)."""
        ...


class ProjectedTower(TorchTower):
    """Towers of a `Projected` network.

    Parameters
    ----------
    network : nn.Module
        A `Projected`.
    images : ImagePreparation
    texts : TextWindows
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.
    """

    network: Any

    def __init__(
        self,
        network: Projected,
        images: ImagePreparation,
        texts: TextWindows,
        *,
        source: str = "",
        device: str = "cpu",
    ) -> None:
        # Kept as they were when the network was made, so that the identity of a saved tower does
        # not change with the defaults of another transformers release.
        self._configs = {
            "image_config": config_facts(network.image_encoder.config),
            "text_config": config_facts(network.text_encoder.config),
        }
        super().__init__(
            network,  # type: ignore[arg-type]
            images,
            texts,
            dimension=network.image_projection.out_features,
            source=source,
            device=device,
        )

    def settings(self) -> dict[str, Any]:
        """Everything beside the weights that moves vectors, as plain JSON."""
        pooling = {"text_pooling": self.network.text_pooling}
        return {**super().settings(), **pooling, **self._configs}

    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.network.image_features(inputs["pixel_values"])
        return features

    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.network.text_features(inputs["input_ids"], inputs["attention_mask"])
        return features
