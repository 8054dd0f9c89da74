"""ResNet and BERT with a projection each: the weights of `ResNetBertTower`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mrrag_llamaindex import defaults
from mrrag_llamaindex.towers.text_pooling import POOLINGS, pool_tokens


class ResNetBertNetwork(nn.Module):
    """The trainable part of a `ResNetBertTower`.

    The shape follows ConVIRT (Zhang et al., 2022, arXiv 2010.00747): a convolutional image
    encoder, a BERT, one projection each into a common space, trained with InfoNCE.

    Parameters
    ----------
    image_encoder : transformers.ResNetModel
    text_encoder : transformers.BertModel
        Without its pooling layer.
    dimension : int
        n.
    text_pooling : {"mean", "cls", "last"}
        ``"mean"`` averages the last hidden states of all real tokens, special ones included;
        ``"cls"`` takes the first, ``"last"`` the last. BERT's first token says little before it is
        trained to.

    Attributes
    ----------
    log_temperature : nn.Parameter, scalar
        Starts at log(`defaults.TEMPERATURE`). Training may learn it; embeddings do not use it.
    """

    def __init__(
        self, image_encoder: Any, text_encoder: Any, dimension: int, text_pooling: str = "mean"
    ) -> None:
        super().__init__()
        if text_pooling not in POOLINGS:
            raise ValueError(f"text_pooling must be one of {POOLINGS}, not {text_pooling!r}")
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {dimension}")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.text_pooling = text_pooling
        self.image_projection = nn.Linear(image_encoder.config.hidden_sizes[-1], dimension)
        self.text_projection = nn.Linear(text_encoder.config.hidden_size, dimension)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(defaults.TEMPERATURE)))

    @property
    def temperature(self) -> Tensor:
        """InfoNCE temperature, a positive scalar with a gradient."""
        return self.log_temperature.exp()

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Project images.

        Parameters
        ----------
        pixel_values : Tensor, shape (batch, 3, height, width), float32
            As `ImagePreparation` makes them.

        Returns
        -------
        Tensor, shape (batch, n), float32
            Not normalised, with gradients.
        """
        pooled = self.image_encoder(pixel_values).pooler_output
        projected: Tensor = self.image_projection(pooled.flatten(1))
        return projected

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Project texts.

        Parameters
        ----------
        input_ids : Tensor, shape (batch, T), int64
        attention_mask : Tensor, shape (batch, T), int64
            1 for a token, 0 for padding.

        Returns
        -------
        Tensor, shape (batch, n), float32
            Not normalised, with gradients.
        """
        hidden = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        pooled = pool_tokens(hidden, attention_mask, self.text_pooling)
        projected: Tensor = self.text_projection(pooled)
        return projected
