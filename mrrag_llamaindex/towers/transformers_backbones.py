"""Frozen image and text encoders of the transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.base import check_device
from mrrag_llamaindex.towers.hub import model_folder, read_model
from mrrag_llamaindex.towers.identity import config_facts, weights_digest
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.resnet_bert_network import POOLINGS, pool_tokens
from mrrag_llamaindex.towers.text_windows import TextWindows

IMAGE_POOLINGS = ("pooler", "mean", "cls")


class _TransformersBackbone:
    def __init__(self, model: Any, pooling: str, choices: tuple[str, ...], source: str) -> None:
        if pooling not in choices:
            raise ValueError(f"pooling must be one of {choices}, not {pooling!r}")
        self.model = model.eval().requires_grad_(False)
        self.pooling = pooling
        self.source = source
        self.config = config_facts(model.config)
        self._sha256 = ""
        self._device = torch.device("cpu")

    def to(self, device: str) -> Self:
        """Move the weights; returns the backbone itself."""
        self._device = check_device(device)
        self.model.to(self._device)
        return self

    def reference(self) -> dict[str, Any]:
        """See `mrrag_llamaindex.towers.backbones.Backbone`."""
        # The weights are frozen, so they are read once.
        self._sha256 = self._sha256 or weights_digest(self.model)
        return {
            "type": "transformers",
            "source": self.source,
            "sha256": self._sha256,
            "pooling": self.pooling,
            "config": self.config,
        }

    def _run(self, batches: list[dict[str, Tensor]], pool: Any) -> Tensor:
        parts = []
        with torch.inference_mode():
            for batch in batches:
                moved = {key: value.to(self._device) for key, value in batch.items()}
                parts.append(pool(self.model(**moved), moved).float().cpu())
        return torch.cat(parts).clone()


class TransformersImageBackbone(_TransformersBackbone):
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
        try:
            images = ImagePreparation.load(folder)
            if size is not None:
                stated = images.processor
                images = ImagePreparation.square(size, stated.image_mean, stated.image_std)
            model = read_model(AutoModel, folder, pooler=pooling == "pooler")
            return cls(model, images, pooling, _absolute(source))
        except TowerError:
            raise
        except Exception as error:
            raise _unusable("image", source, error) from error

    @classmethod
    def restore(cls, weights: Path, preparation: Path, reference: dict[str, Any]) -> Self:
        """Load from a folder with the image preparation of another, as a saved tower says."""
        from transformers import AutoModel

        try:
            images = ImagePreparation.load(preparation, pad=reference["images"]["pad"])
            pooling = reference["pooling"]
            model = read_model(AutoModel, weights, pooler=pooling == "pooler")
            return cls(model, images, pooling, str(weights))
        except TowerError:
            raise
        except Exception as error:
            raise _unusable("image", str(weights), error) from error

    def features(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """See `mrrag_llamaindex.towers.backbones.ImageBackbone`."""
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
        """See `mrrag_llamaindex.towers.backbones.Backbone`."""
        return {**super().reference(), "images": self.images.settings()}

    def save(self, folder: Path) -> None:
        """Write model and processor into ``folder``."""
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


class TransformersTextBackbone(_TransformersBackbone):
    """A transformers text encoder of BERT's kind.

    The features of a text longer than the limit are the mean of its windows' features, weighted
    by their tokens.

    Parameters
    ----------
    model : PreTrainedModel
        With ``last_hidden_state``.
    texts : TextWindows
    pooling : {"mean", "cls"}
        Of the last hidden state, see `pool_tokens`.
    source : str
        Folder or hub id of the weights; empty if they exist in memory only.
    """

    def __init__(
        self, model: Any, texts: TextWindows, pooling: str = "mean", source: str = ""
    ) -> None:
        super().__init__(model, pooling, POOLINGS, source)
        self.texts = texts
        self.text_token_limit = texts.limit
        self.long_text = texts.long_text
        self.dimension = int(model.config.hidden_size)

    @classmethod
    def load(
        cls,
        source: str,
        pooling: str = "mean",
        text_token_limit: int | None = None,
        long_text: str = "mean",
    ) -> Self:
        """Load from a folder or a hub id.

        Parameters
        ----------
        source : str
        pooling : str
            See the class.
        text_token_limit : int, optional
            By default what the model and its tokenizer read.
        long_text : str
            See `TextWindows`.

        Raises
        ------
        TowerError
            If it cannot be found, or is not a text encoder with its tokenizer.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = model_folder(source)
        try:
            model = read_model(AutoModel, folder, pooler=False)
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            most = int(min(_positions(model.config), tokenizer.model_max_length))
            texts = TextWindows(tokenizer, text_token_limit or most, long_text)
            return cls(model, texts, pooling, _absolute(source))
        except TowerError:
            raise
        except Exception as error:
            raise _unusable("text", source, error) from error

    @classmethod
    def restore(cls, weights: Path, preparation: Path, reference: dict[str, Any]) -> Self:
        """Load from a folder with the tokenizer of another, as a saved tower says."""
        from transformers import AutoModel, AutoTokenizer

        try:
            told = reference["texts"]
            tokenizer = AutoTokenizer.from_pretrained(str(preparation), local_files_only=True)
            texts = TextWindows(tokenizer, told["limit"], told["long_text"], told["padding"])
            model = read_model(AutoModel, weights, pooler=False)
            return cls(model, texts, reference["pooling"], str(weights))
        except TowerError:
            raise
        except Exception as error:
            raise _unusable("text", str(weights), error) from error

    def features(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """See `mrrag_llamaindex.towers.backbones.TextBackbone`."""
        if not texts:
            return torch.zeros(0, self.dimension)
        windows = self.texts.split(texts)
        windows.sort(key=lambda window: len(window.input_ids))
        batches = [
            self.texts.batch(windows[start : start + batch_size])
            for start in range(0, len(windows), batch_size)
        ]
        return TextWindows.combine(self._run(batches, self._pool), windows, len(texts))

    def reference(self) -> dict[str, Any]:
        """See `mrrag_llamaindex.towers.backbones.Backbone`."""
        return {**super().reference(), "texts": self.texts.settings()}

    def save(self, folder: Path) -> None:
        """Write model and tokenizer into ``folder``."""
        self.model.save_pretrained(folder)
        self.texts.save(folder)

    def _pool(self, output: Any, inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        return pool_tokens(output.last_hidden_state, mask, self.pooling)


def _positions(config: Any) -> int:
    positions = int(config.max_position_embeddings)
    # RoBERTa counts positions from the padding id on.
    return positions - config.pad_token_id - 1 if "roberta" in config.model_type else positions


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() else source


def _unusable(kind: str, source: str, error: Exception) -> TowerError:
    return TowerError(
        f"{source!r} cannot be read as a frozen {kind} encoder ({type(error).__name__}: {error})"
    )
