"""A frozen encoder of the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.towers.identity import config_facts, weights_digest


class TransformersBackbone:
    """What the image and the text adapter share.

    Parameters
    ----------
    model : PreTrainedModel
        Put into evaluation mode, its gradients switched off.
    pooling : str
        One of ``choices``.
    choices : tuple of str
    source : str
        Folder or hub id of the weights; empty if they exist in memory only.
    """

    def __init__(self, model: Any, pooling: str, choices: tuple[str, ...], source: str) -> None:
        if pooling not in choices:
            raise ValueError(f"pooling must be one of {choices}, not {pooling!r}")
        self.model = model.eval().requires_grad_(False)
        self.pooling = pooling
        self.source = source
        self.config = config_facts(model.config)
        self._sha256 = ""
        self._device = "cpu"

    def to(self, device: str) -> Self:
        """Move the weights; returns the backbone itself."""
        self._device = resolve_device(device, TowerError)
        self.model.to(self._device)
        return self

    def reference(self) -> dict[str, Any]:
        """See `mrrag_llamaindex.towers.backbones.protocol.Backbone`."""
        if not self._sha256:  # the weights are frozen, so they are read once
            unused = None if self.pooling == "pooler" else "pooler."
            self._sha256 = weights_digest(self.model, without=unused)
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
