"""What every tower made of torch modules shares: batches, device, checks, identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Self

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.files.forks import ForkGuard
from mrrag_llamaindex.towers.identity import make_identity, weights_digest, weights_state
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.text_windows import TextWindows


class TorchTower(ABC):
    """Base of the towers here; a `mrrag_llamaindex.towers.protocol.DualTower`.

    A subclass turns prepared tensors into features; batching, evaluation mode, the mean over
    the windows of a long text, unit length and the checks happen here.

    Parameters
    ----------
    network : nn.Module
        Holds every weight that moves a vector. Moved to ``device``.
    images : ImagePreparation
        Turns PIL images into the tensors that the network reads.
    texts : TextWindows
        Its tokenizer, with the limit in tokens and what happens to a longer text.
    dimension : int
        n, of both features.
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"`` for CUDA where present.

    Raises
    ------
    TowerError
        If the device is not on this machine.
    """

    name = "tower"

    def __init__(
        self,
        network: nn.Module,
        images: ImagePreparation,
        texts: TextWindows,
        *,
        dimension: int,
        source: str = "",
        device: str = "cpu",
    ) -> None:
        self.images = images
        self.texts = texts
        self.text_token_limit = texts.limit
        self.long_text = texts.long_text
        self.dimension = dimension
        self.source = source
        self.network = network
        self._identity: tuple[Any, str] | None = None
        self._process = ForkGuard()
        self.to(device)
        network.eval()

    def to(self, device: str) -> Self:
        """Move the weights; returns the tower itself."""
        self.device = resolve_device(device, TowerError)
        self.network.to(self.device)
        return self

    @property
    def identity(self) -> str:
        """``"<name>@<16 hex digits>"``, computed anew after the weights have changed."""
        state = weights_state(self.network)
        if self._identity is None or self._identity[0] != state:
            self._identity = (state, make_identity(self.name, self.settings(), self._weights()))
        return self._identity[1]

    def settings(self) -> dict[str, Any]:
        """Everything beside the weights that moves vectors, as plain JSON."""
        return {
            "dimension": self.dimension,
            "images": self.images.settings(),
            "texts": self.texts.settings(),
        }

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> NDArray[np.float32]:
        """See `DualTower.embed_images`."""
        check_images(images, batch_size)
        parts = []
        with _evaluating(self.network):
            for start in range(0, len(images), batch_size):
                inputs = self.images(images[start : start + batch_size])
                parts.append(self._image_features(self._move(inputs)).float())
            return unit_rows(_stack(parts, self.dimension), "image")

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """See `DualTower.embed_texts`."""
        check_texts(texts, batch_size)
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        windows = self.texts.split(texts)
        # Windows of like length share a batch, so that little of it is padding.
        order = sorted(range(len(windows)), key=lambda index: len(windows[index].input_ids))
        parts = []
        with _evaluating(self.network):
            for start in range(0, len(order), batch_size):
                group = [windows[index] for index in order[start : start + batch_size]]
                inputs = self._move(self.texts.batch(group))
                parts.append(self._text_features(inputs).float())
            features = _stack(parts, self.dimension)
            ordered = [windows[index] for index in order]
            return unit_rows(self._combine(features, ordered, len(texts)), "text")

    def _combine(self, features: Tensor, windows: list[Any], texts: int) -> Tensor:
        # Of unit vectors: a window must not count more because its projection is longer.
        unit = nn.functional.normalize(features, dim=-1)
        return TextWindows.combine(unit, windows, texts)

    def _weights(self) -> str:
        return weights_digest(self.network)

    def _move(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        self._process.check("these towers were", TowerError)
        return {key: value.to(self.device) for key, value in inputs.items()}

    @abstractmethod
    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features of a prepared batch of images, shape (batch, n), any length."""

    @abstractmethod
    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features of a prepared batch of windows, shape (batch, n), any length."""


def unit_rows(features: Tensor, what: str) -> NDArray[np.float32]:
    """Rows of unit length.

    Parameters
    ----------
    features : Tensor, shape (m, n)
    what : str
        What a row was made from, for the error message.

    Returns
    -------
    ndarray, shape (m, n), float32

    Raises
    ------
    TowerError
        If a row is zero or not finite; it names the first such row, counted from 1.
    """
    rows = features.detach().cpu().numpy().astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) if len(rows) else np.zeros(0)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths < 1e-12))
    if len(bad):
        kind = "zero" if np.isfinite(lengths[bad[0]]) else "not finite"
        raise TowerError(
            f"the towers gave a vector that is {kind} for {what} {bad[0] + 1} of {len(rows)}; "
            "the weights or this input are damaged"
        )
    return np.ascontiguousarray(rows / np.maximum(lengths, 1e-12)[:, None], dtype=np.float32)


def check_images(images: Sequence[Image.Image], batch_size: int) -> None:
    """Raise `InputError`, naming the position, if one of ``images`` is no PIL image."""
    _check_batch_size(batch_size)
    for position, image in enumerate(images):
        if not isinstance(image, Image.Image):
            raise InputError(
                f"image {position + 1} of {len(images)} is {type(image).__name__}, not a PIL "
                "image; open it with mrrag_llamaindex.images.load.load_image"
            )


def check_texts(texts: Sequence[str], batch_size: int) -> None:
    """Raise `InputError` if ``texts`` is one string, which would pass for a list of letters."""
    _check_batch_size(batch_size)
    if isinstance(texts, str):
        raise InputError("embed_texts takes a list of texts; this is a single string")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluate without gradients, and leave what was in training mode in it again."""
    # Module by module: a frozen batch norm inside a network in training stays frozen.
    training = [module for module in network.modules() if module.training]
    if training:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def _stack(parts: list[Tensor], dimension: int) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dimension)
