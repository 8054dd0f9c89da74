"""From a PIL image to the tensors that an image encoder reads, nothing cut away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mrrag_llamaindex.images.load import load_image, pad_to_square

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Settings of transformers' image processors that change pixels.
_KEYS = (
    "crop_pct",
    "crop_size",
    "do_center_crop",
    "do_flip_channel_order",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "max_num_patches",
    "patch_size",
    "resample",
    "rescale_factor",
    "size",
)


class ImagePreparation:
    """A transformers image processor, with the film padded to a square before it.

    Many processors resize the short edge and crop the centre, which cuts both sides of a wide
    film, and with them the costophrenic angles. After padding there is nothing left to cut.

    Parameters
    ----------
    processor : BaseImageProcessor
        A processor of the Pillow back end, which needs no torchvision and gives the same pixels
        on every machine.
    pad : bool
        Pad to a square in the processor's mean colour.
    """

    def __init__(self, processor: Any, pad: bool = True) -> None:
        self.processor = processor
        self.pad = pad

    @classmethod
    def square(
        cls,
        size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> ImagePreparation:
        """Pad to a square, resize to ``size`` x ``size`` (bicubic), normalise each channel.

        Parameters
        ----------
        size : int
            Pixels.
        mean, std : three floats
            Of channels in [0, 1]; by default those of ImageNet.
        """
        from transformers import CLIPImageProcessorPil

        if size < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("a size of at least 1, three means and three positive deviations")
        processor = CLIPImageProcessorPil(
            size={"height": size, "width": size},
            do_center_crop=False,
            image_mean=list(mean),
            image_std=list(std),
        )
        return cls(processor)

    @classmethod
    def load(cls, folder: str | Path, pad: bool = True) -> ImagePreparation:
        """Read ``preprocessor_config.json`` from a folder."""
        # By its module: under its name in the library, 5.16 and 5.17 ask for torchvision.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        # Without type annotations in the library, hence through an untyped name.
        auto: Any = AutoImageProcessor
        processor = auto.from_pretrained(
            str(folder), backend="pil", local_files_only=True, trust_remote_code=False
        )
        return cls(processor, pad)

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Prepare a batch.

        Returns
        -------
        dict
            ``pixel_values``, float32, shape (len(images), 3, height, width), and whatever else
            the processor makes for its model.
        """
        ready = [image if image.mode == "RGB" else load_image(image) for image in images]
        if self.pad:
            mean = getattr(self.processor, "image_mean", None) or (0.0, 0.0, 0.0)
            ready = [pad_to_square(image, mean) for image in ready]
        prepared = self.processor(images=ready, return_tensors="pt")
        return {key: value for key, value in prepared.items() if isinstance(value, torch.Tensor)}

    def settings(self) -> dict[str, Any]:
        """Everything here that moves vectors, for a tower's identity and for its file."""
        config = json.loads(self.processor.to_json_string())
        kept = {key: config[key] for key in _KEYS if config.get(key) is not None}
        kind = str(config.get("image_processor_type", "")).removesuffix("Fast")
        return {"pad": self.pad, "type": kind, **kept}

    def save(self, folder: Path) -> None:
        """Write ``preprocessor_config.json`` into ``folder``."""
        self.processor.save_pretrained(folder)
