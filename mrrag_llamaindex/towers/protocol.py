"""What the rest of the package asks of an encoder of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@runtime_checkable
class DualTower(Protocol):
    """Two encoders, one of images and one of texts, into the same space of n dimensions.

    A cosine between any two vectors of one tower is meaningful, whatever they were made from;
    vectors of towers with different `identity` must never meet.

    Attributes
    ----------
    source : str
        What `mrrag_llamaindex.towers.loading.load_towers` takes to get this tower again:
        ``"phantom"``, an absolute folder, or a hub id. Empty for a tower that was never saved.
    identity : str
        ``"<name>@<16 hex digits>"`` of weights, preprocessing and settings; the same after
        saving and loading, another one after any change that moves vectors.
    dimension : int
        n.
    text_token_limit : int
        Tokens read at once, special tokens included.
    long_text : str
        What happens to a text beyond that limit: ``"mean"`` reads it in windows and takes their
        mean, ``"truncate"`` reads its beginning only.
    """

    source: str
    dimension: int

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def text_token_limit(self) -> int: ...  # noqa: D102

    @property
    def long_text(self) -> str: ...  # noqa: D102

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            As `mrrag_llamaindex.images.load.load_image` returns them.
        batch_size : int
            Images per forward pass.

        Returns
        -------
        ndarray, shape (len(images), n), float32
            Unit rows, in the order given.

        Raises
        ------
        TowerError
            If the encoder returns a vector that is zero or not finite.
        """
        ...

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        texts : sequence of str
            Reports or questions, of any length.
        batch_size : int
            Windows of at most `text_token_limit` tokens per forward pass.

        Returns
        -------
        ndarray, shape (len(texts), n), float32
            Unit rows, in the order given.

        Raises
        ------
        InputError
            If a text is empty, or holds nothing that the tokenizer knows.
        TowerError
            If the encoder returns a vector that is zero or not finite.
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """Towers that may know vectors of inputs which they have seen, without those inputs."""

    def remembered(self, kind: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Vectors of those inputs that are known.

        Parameters
        ----------
        kind : {"image", "text"}
        keys : sequence of str
            SHA-256 of each input: of an image as `mrrag_llamaindex.images.load.image_digest`
            gives it, read with no options; of a text in UTF-8.

        Returns
        -------
        dict
            By key, unit rows as `embed_images` and `embed_texts` give them.

        Raises
        ------
        TowerError
            If what is known cannot be read.
        """
        ...

    @property
    def remembers(self) -> bool:
        """Whether anything is known, so that digests are worth taking."""
        ...
