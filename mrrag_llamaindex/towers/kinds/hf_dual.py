"""Any transformers dual encoder: CLIP, SigLIP, MedSigLIP, AltCLIP and their kin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.base import TorchTower
from mrrag_llamaindex.towers.folders import (
    absolute_source,
    model_folder,
    read_model,
    read_tokenizer,
    reading,
)
from mrrag_llamaindex.towers.identity import config_facts
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.text_windows import TextWindows, token_limit


class HFDualTower(TorchTower):
    """A transformers model with ``get_image_features`` and ``get_text_features``.

    Images go through the model's own processor. Where that processor crops the centre, as CLIP's
    does, the film is first padded to a square, so that nothing of it is cut; where it stretches,
    as SigLIP's does, it stretches as in training.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    image_processor : BaseImageProcessor
    text_token_limit : int, optional
        By default what the model and its tokenizer read (CLIP 77, SigLIP 64).
    long_text : {"mean", "truncate"}
        See `TextWindows`.
    pad : bool, optional
        Pad images to a square; by default exactly where the processor crops.
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.

    Raises
    ------
    TowerError
        If the model has not both kinds of features, or they differ in dimension.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        text_token_limit: int | None = None,
        long_text: str = "mean",
        pad: bool | None = None,
        source: str = "",
        device: str = "cpu",
    ) -> None:
        self.name = str(model.config.model_type)
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise TowerError(
                    f"a model of type {self.name!r} has no {method}, so it is not a dual encoder "
                    "of images and texts (CLIP, SigLIP and the like are)"
                )
        limit = token_limit(model.config, tokenizer, text_token_limit)
        # SigLIP takes the last position, whatever stands there, and was trained on full length.
        padding = "max_length" if self.name.startswith("siglip") else "longest"
        crops = bool(getattr(image_processor, "do_center_crop", False))
        super().__init__(
            model,
            ImagePreparation(image_processor, crops if pad is None else pad),
            TextWindows(tokenizer, limit, long_text, padding),
            dimension=0,
            source=source,
            device=device,
        )
        self.dimension = self._measure_dimension()

    @classmethod
    def load(
        cls,
        source: str,
        *,
        text_token_limit: int | None = None,
        long_text: str = "mean",
        pad: bool | None = None,
        device: str = "cpu",
    ) -> Self:
        """Load from a folder or a hub id.

        Parameters
        ----------
        source : str
            A folder of model, tokenizer and image processor, or a hub id.
        text_token_limit, long_text, pad, device
            As for the class.

        Raises
        ------
        TowerError
            If it cannot be found, is incomplete, or is not a dual encoder.
        """
        from transformers import AutoModel

        folder = model_folder(source)
        with reading("a dual encoder with its tokenizer and image processor", source):
            model = read_model(AutoModel, folder)
            tokenizer = read_tokenizer(folder)
            processor = ImagePreparation.load(folder).processor
        return cls(
            model,
            tokenizer,
            processor,
            text_token_limit=text_token_limit,
            long_text=long_text,
            pad=pad,
            source=absolute_source(source),
            device=device,
        )

    def settings(self) -> dict[str, Any]:
        """Everything beside the weights that moves vectors, as plain JSON."""
        return {**super().settings(), "config": config_facts(self.network.config)}

    def _measure_dimension(self) -> int:
        from PIL import Image

        with torch.inference_mode():
            images = self._image_features(self._move(self.images([Image.new("RGB", (64, 64))])))
            windows = self.texts.batch(self.texts.split(["a"]))
            texts = self._text_features(self._move(windows))
        if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
            raise TowerError(
                f"image features of shape {tuple(images.shape)} and text features of shape "
                f"{tuple(texts.shape)} do not lie in one space"
            )
        return int(images.shape[1])

    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return _tensor(self.network.get_image_features(**inputs))  # type: ignore[operator]

    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        return _tensor(self.network.get_text_features(**inputs))  # type: ignore[operator]


def _tensor(output: Any) -> Tensor:
    # transformers 5 returns an output object with the projection as pooler_output; 4 and some
    # remote models return the tensor itself.
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "pooler_output", None), Tensor):
        pooled: Tensor = output.pooler_output
        return pooled
    raise TowerError(f"the model's features are a {type(output).__name__} without pooler_output")
