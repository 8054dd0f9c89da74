"""Query images as a model takes them: tensors, and the text that holds their places."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.families import ModelFamily
from mrrag_llamaindex.images.load import pad_to_square


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image, prepared for one model.

    Attributes
    ----------
    text : str
        What stands for the image in the prompt, one image token per image feature.
    tokens : int
        Image tokens in `text`.
    tensors : dict of str to torch.Tensor
        Arguments of ``forward``, first dimension 1 (or the patches of one image).
    digest : str
        SHA-256 of the tensors: equal only for the same pixels in the same preparation.
    """

    text: str
    tokens: int
    tensors: dict[str, torch.Tensor]
    digest: str


class ImageReader(ABC):
    """Prepare images for one model.

    Attributes
    ----------
    image_token : str
        The token that stands for one image feature.
    marker : str
        What a chat template writes for an image.
    """

    image_token: str
    marker: str

    def read(self, image: Image.Image) -> PreparedImage:
        """Prepare one RGB image."""
        text, tensors = self._prepare(image)
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
            digest.update(tensors[name].contiguous().numpy().tobytes())
        return PreparedImage(text, text.count(self.image_token), tensors, digest.hexdigest())

    def to_send(self, image: Image.Image) -> Image.Image:
        """Return what to give another process that prepares images with the same processor.

        As far as its size is known, it is the image at the size at which the model sees it: to
        resize it again changes nothing, by whichever library that is done.
        """
        return image

    @abstractmethod
    def _prepare(self, image: Image.Image) -> tuple[str, dict[str, torch.Tensor]]: ...


class FixedReader(ImageReader):
    """Models that make the same number of features of every image: LLaVA, Gemma 3.

    Parameters
    ----------
    processor : ProcessorMixin
    pads : bool
        Pad to a square in the processor's mean colour first.
    """

    def __init__(self, processor: Any, *, pads: bool) -> None:
        self.processor = processor
        self.pads = pads
        # Gemma's processor writes one mark for the image and other tokens for its features.
        self.marker = processor.image_token
        self.image_token = processor.tokenizer.convert_ids_to_tokens(processor.image_token_id)
        blank = Image.new("RGB", (64, 64))
        self._text, _ = processed(processor, blank, self.marker, self.image_token)

    def _prepare(self, image: Image.Image) -> tuple[str, dict[str, torch.Tensor]]:
        inputs = self.processor.image_processor(images=[self._padded(image)], return_tensors="pt")
        return self._text, {"pixel_values": inputs["pixel_values"]}

    def _padded(self, image: Image.Image) -> Image.Image:
        if not self.pads:
            return image
        return pad_to_square(image, self.processor.image_processor.image_mean)

    def to_send(self, image: Image.Image) -> Image.Image:
        """See `ImageReader`."""
        levels = self.processor.image_processor(
            images=[self._padded(image)], do_rescale=False, do_normalize=False, return_tensors="pt"
        )["pixel_values"][0]
        return Image.fromarray(levels.permute(1, 2, 0).to(torch.uint8).contiguous().numpy())


class TiledReader(ImageReader):
    """LLaVA-NeXT: an image is cut into tiles, and its processor counts what comes of them.

    Parameters
    ----------
    processor : ProcessorMixin
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.image_token = self.marker = processor.image_token

    def _prepare(self, image: Image.Image) -> tuple[str, dict[str, torch.Tensor]]:
        return processed(self.processor, image, self.marker, self.image_token)


class GridReader(ImageReader):
    """Qwen-VL: patches of the image's own size, merged by squares.

    Its transformers processor also needs a video processor, hence torchvision; an image needs
    neither.

    Parameters
    ----------
    image_processor : BaseImageProcessor
    """

    image_token = "<|image_pad|>"
    marker = "<|vision_start|><|image_pad|><|vision_end|>"

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def _prepare(self, image: Image.Image) -> tuple[str, dict[str, torch.Tensor]]:
        inputs = self.image_processor(images=[image], return_tensors="pt")
        merged = self.image_processor.merge_size**2
        count = int(inputs["image_grid_thw"][0].prod()) // merged
        return self.marker.replace(self.image_token, self.image_token * count), dict(inputs)

    def to_send(self, image: Image.Image) -> Image.Image:
        """See `ImageReader`."""
        inputs = self.image_processor(images=[image], return_tensors="pt")
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        side = self.image_processor.patch_size
        resample = Image.Resampling(int(self.image_processor.resample))
        return image.resize((columns * side, rows * side), resample)


def reader_for(family: ModelFamily, processor: Any) -> ImageReader | None:
    """Choose how images are prepared for a family; None for a text-only model."""
    if processor is None:
        return None
    if family.model_type == "qwen2_5_vl":
        return GridReader(processor)
    if family.model_type == "llava_next":
        return TiledReader(processor)
    return FixedReader(processor, pads=family.pads_images)


_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def processed(
    processor: Any, image: Image.Image, marker: str, image_token: str
) -> tuple[str, dict[str, torch.Tensor]]:
    """Let a processor prepare one image and write its places."""
    inputs = processor(images=[[image]], text=[marker], return_tensors="pt")
    count = int((inputs["input_ids"] == processor.image_token_id).sum())
    text = getattr(processor, "full_image_sequence", None) or image_token * count
    return text, {name: inputs[name] for name in inputs if name not in _TEXT_INPUTS}


def stack(images: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
    """Join the tensors of several images along their first dimension.

    Images cut into different numbers of tiles (LLaVA-NeXT, second dimension) are padded with
    zeros, as its processor does; the model reads the true number from ``image_sizes``.
    """
    stacked = {}
    for name in images[0].tensors if images else ():
        parts = [image.tensors[name] for image in images]
        if parts[0].ndim == 5:
            tiles = max(part.shape[1] for part in parts)
            parts = [F.pad(p, (0, 0, 0, 0, 0, 0, 0, tiles - p.shape[1])) for p in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})
            raise ModelError(f"images of one batch differ in {name!r}: {shapes}")
        stacked[name] = torch.cat(parts)
    return stacked
