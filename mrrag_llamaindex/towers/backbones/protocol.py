"""What `FrozenTower` asks of the encoders whose weights it leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor


class Backbone(Protocol):
    """An encoder with fixed weights; images and texts have one method each beside these.

    Attributes
    ----------
    dimension : int
        d, of the features.
    """

    dimension: int

    def reference(self) -> dict[str, Any]:
        """How to find and check this backbone again, as plain JSON.

        Holds ``type`` (for the transformers adapters ``"transformers"``), ``source`` (a folder
        or hub id, empty if it exists in memory only), ``sha256`` of the weights and every setting
        that moves features.
        """
        ...

    def to(self, device: str) -> Any:
        """Move the weights."""
        ...

    def save(self, folder: Path) -> None:
        """Write a copy of the backbone into ``folder``."""
        ...


class ImageBackbone(Backbone, Protocol):
    """Features of images."""

    def features(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """Features, shape (len(images), d), float32, on the CPU, in the order given."""
        ...


class TextBackbone(Backbone, Protocol):
    """Features of texts.

    Attributes
    ----------
    text_token_limit : int
        Tokens read at once.
    long_text : str
        See `mrrag_llamaindex.towers.text_windows.TextWindows`.
    """

    text_token_limit: int
    long_text: str

    def features(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Features, shape (len(texts), d), float32, on the CPU, in the order given."""
        ...
