"""Frozen text encoders of the transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.towers.backbones.base import TransformersBackbone
from mrrag_llamaindex.towers.folders import (
    absolute_source,
    model_folder,
    read_model,
    read_tokenizer,
    reading,
)
from mrrag_llamaindex.towers.text_pooling import POOLINGS, pool_tokens
from mrrag_llamaindex.towers.text_windows import TextWindows, token_limit


class TransformersTextBackbone(TransformersBackbone):
    """A transformers text encoder of BERT's kind.

    The features of a text longer than the limit are the mean of its windows' features, weighted
    by their tokens.

    Parameters
    ----------
    model : PreTrainedModel
        With ``last_hidden_state``.
    texts : TextWindows
    pooling : {"mean", "cls", "last"}
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
        from transformers import AutoModel

        folder = model_folder(source)
        with reading("a frozen text encoder", source):
            model = read_model(AutoModel, folder, pooler=False)
            tokenizer = read_tokenizer(folder)
            limit = token_limit(model.config, tokenizer, text_token_limit)
            texts = TextWindows(tokenizer, limit, long_text)
            return cls(model, texts, pooling, absolute_source(source))

    @classmethod
    def restore(cls, weights: Path, preparation: Path, reference: dict[str, Any]) -> Self:
        """Load from a folder with the tokenizer of another, as a saved tower says."""
        from transformers import AutoModel

        with reading("a frozen text encoder", str(weights)):
            settings = reference["texts"]
            tokenizer = read_tokenizer(preparation)
            texts = TextWindows(
                tokenizer, settings["limit"], settings["long_text"], settings["padding"]
            )
            model = read_model(AutoModel, weights, pooler=False)
            return cls(model, texts, reference["pooling"], str(weights))

    def features(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """See `mrrag_llamaindex.towers.backbones.protocol.TextBackbone`."""
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
        """See `mrrag_llamaindex.towers.backbones.protocol.Backbone`."""
        return {**super().reference(), "texts": self.texts.settings()}

    def save(self, folder: Path) -> None:
        """Write model and tokenizer into ``folder``."""
        with system_errors():
            self.model.save_pretrained(folder)
        self.texts.save(folder)

    def _pool(self, output: Any, inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        return pool_tokens(output.last_hidden_state, mask, self.pooling)
