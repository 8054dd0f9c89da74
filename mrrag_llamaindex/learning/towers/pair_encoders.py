"""What the training loop trains, and one kind of it: whole towers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mrrag_llamaindex.learning.towers.contrastive import KINDS
from mrrag_llamaindex.learning.towers.training_pairs import TrainingPairs
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower


class PairEncoder(Protocol):
    """Two encoders in training.

    Attributes
    ----------
    module : nn.Module
        Every weight and buffer that training changes.
    log_temperature : nn.Parameter or None
        Of InfoNCE, if it is learned.
    """

    @property
    def module(self) -> nn.Module: ...  # noqa: D102

    @property
    def log_temperature(self) -> nn.Parameter | None: ...  # noqa: D102

    def load(self, kind: str, rows: Sequence[int]) -> Any:
        """Prepare the ``"image"`` or the ``"text"`` inputs of some pairs, on the CPU."""
        ...

    def encode(self, kind: str, inputs: Any) -> Tensor:
        """Vectors, shape (rows, n), of any length, with a graph where gradients are on."""
        ...

    def further_loss(
        self, rows: Tensor, image: Tensor, text: Tensor, temperature: Tensor | float
    ) -> Tensor | None:
        """Return what is added to the InfoNCE of a batch, given its vectors; None: nothing."""
        ...


def encode_all(
    encoder: PairEncoder, rows: Sequence[int], chunk_size: int, autocast: Any = None
) -> tuple[Tensor, Tensor]:
    """Vectors of some pairs without gradients, in evaluation mode: images (m, n), texts (m, n)."""
    encoder.module.eval()
    vectors = []
    with torch.inference_mode():
        for kind in KINDS:
            parts = []
            for start in range(0, len(rows), chunk_size):
                inputs = encoder.load(kind, rows[start : start + chunk_size])
                with autocast() if autocast else nullcontext():
                    parts.append(encoder.encode(kind, inputs).float())
            vectors.append(torch.cat(parts))
    return vectors[0], vectors[1]


class TowerEncoder:
    """A ResNet and a BERT, every weight of them.

    Long reports are read as `ResNetBertTower.embed_texts` does: in windows whose unit vectors are
    averaged, so that what is trained is what is embedded later.

    Parameters
    ----------
    tower : ResNetBertTower
    pairs : TrainingPairs
    freeze_batch_norm : bool
        Leave the running statistics of the image encoder as they are, and use them. Otherwise
        a chunk is normalised by its own.
    """

    def __init__(
        self, tower: ResNetBertTower, pairs: TrainingPairs, freeze_batch_norm: bool = False
    ) -> None:
        self.tower = tower
        self.module: nn.Module = _Network(tower.network, freeze_batch_norm)
        self.log_temperature: nn.Parameter | None = tower.network.log_temperature
        self._pairs = pairs

    def load(self, kind: str, rows: Sequence[int]) -> Any:
        """See `PairEncoder.load`."""
        if kind == "image":
            return self.tower.images(self._pairs.load(rows))
        windows = self.tower.texts.split(self._pairs.texts(rows))
        return windows, self.tower.texts.batch(windows)

    def encode(self, kind: str, inputs: Any) -> Tensor:
        """See `PairEncoder.encode`."""
        network = self.tower.network
        device = network.log_temperature.device
        if kind == "image":
            pixels = inputs["pixel_values"].to(device)
            # The first of two passes over a chunk must not count in the running statistics.
            with _still_statistics(network, self.module.training and not torch.is_grad_enabled()):
                return network.image_features(pixels)
        windows, batch = inputs
        vectors = network.text_features(*(batch[key].to(device) for key in _TEXT_INPUTS)).float()
        texts = windows[-1].text + 1
        return self.tower.texts.combine(nn.functional.normalize(vectors, dim=-1), windows, texts)

    def further_loss(
        self, rows: Tensor, image: Tensor, text: Tensor, temperature: Tensor | float
    ) -> None:
        """See `PairEncoder.further_loss`: nothing is added."""


@contextmanager
def _still_statistics(network: nn.Module, still: bool) -> Iterator[None]:
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)] if still else []
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


_TEXT_INPUTS = ("input_ids", "attention_mask")


class _Network(nn.Module):
    """The network under a name, whose batch norms may stay in evaluation mode."""

    def __init__(self, network: nn.Module, freeze_batch_norm: bool) -> None:
        super().__init__()
        self.network = network
        self._frozen = freeze_batch_norm

    def train(self, mode: bool = True) -> _Network:
        super().train(mode)
        if self._frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
