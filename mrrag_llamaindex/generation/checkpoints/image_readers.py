"""Query images as a model takes them: tensors, and the text that holds their places."""

from __future__ import annotations

import hashlib
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
    """The image of one question, or its several images, prepared for one model.

    Attributes
    ----------
    texts : tuple of str
        What stands for each image in the prompt, one image token per image feature.
    tokens : int
        Image tokens in `texts`.
    tensors : dict of str to torch.Tensor
        Arguments of ``forward``, first dimension 1 (or the images, tiles or patches).
    digest : str
        SHA-256 of the tensors: equal only for the same pixels in the same preparation.
    """

    texts: tuple[str, ...]
    tokens: int
    tensors: dict[str, torch.Tensor]
    digest: str


class ImageReader:
    """Prepare images for one model by its own processor.

    Parameters
    ----------
    processor : ProcessorMixin
    family : ModelFamily
    image_token_id : int
        The token that stands for one image feature, as the model's configuration says.

    Attributes
    ----------
    image_token : str
        The token that stands for one image feature.
    marker : str
        What a chat template writes for an image.

    Raises
    ------
    ModelError
        If the processor does not write that token for an image.
    """

    def __init__(self, processor: Any, family: ModelFamily, image_token_id: int) -> None:
        self.processor = processor
        self.family = family
        # Gemma's processor has one token for an image in a text, and another for its features.
        self.marker = processor.image_token.join(family.image_frame)
        self.image_token: str = processor.tokenizer.convert_ids_to_tokens(image_token_id) or ""
        if not self.image_token or not self.read([Image.new("RGB", (64, 64))]).tokens:
            raise ModelError(
                f"config.json says that token {image_token_id} ({self.image_token!r}) stands for "
                "the image, and the processor does not write it; the tokenizer or the processor "
                "belongs to another model"
            )

    def read(self, images: Sequence[Image.Image]) -> PreparedImage:
        """Prepare the RGB images of one question."""
        pictures = [self._padded(picture) for picture in images]
        inputs = self.processor.image_processor(
            images=[pictures], return_tensors="pt", **self.family.image_options
        )
        texts = tuple(
            self.processor.replace_image_token(inputs, image_idx=index).join(
                self.family.image_frame
            )
            for index in range(len(pictures))
        )
        tensors = {name: inputs[name] for name in inputs if name not in _FOR_THE_TEXT}
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
            digest.update(tensors[name].contiguous().numpy().tobytes())
        tokens = sum(text.count(self.image_token) for text in texts)
        return PreparedImage(texts, tokens, tensors, digest.hexdigest())

    def to_send(self, image: Image.Image) -> Image.Image:
        """Return what to give another process that prepares images by the same processor.

        Where the model sees an image at one size, that is the image at this size: to resize it
        again changes nothing, by whichever library that is done.
        """
        picture = self._padded(image)
        plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        inputs = self.processor.image_processor(
            images=[[picture]], **plain, **self.family.image_options
        )
        pixels = inputs["pixel_values"]
        if pixels.ndim == 4 and len(pixels) == 1:
            levels = pixels[0].permute(1, 2, 0).to(torch.uint8)
            return Image.fromarray(levels.contiguous().numpy())
        if "image_grid_thw" in inputs:
            _, rows, columns = inputs["image_grid_thw"][0].tolist()
            processor = self.processor.image_processor
            size = columns * processor.patch_size, rows * processor.patch_size
            return picture.resize(size, Image.Resampling(int(processor.resample)))
        return picture  # what it is cut into depends on all of it

    def _padded(self, picture: Image.Image) -> Image.Image:
        if not self.family.pads_images:
            return picture
        return pad_to_square(picture, self.processor.image_processor.image_mean)


_FOR_THE_TEXT = ("num_crops", "num_patches", "rows", "cols")
"""What image processors count for the places of an image, and no model takes."""


def reader_for(family: ModelFamily, processor: Any, config: Any) -> ImageReader | None:
    """Make the reader of a model's images, by its configuration; None for a text-only model."""
    if processor is None:
        return None
    return ImageReader(processor, family, int(config.image_token_id))


def stack(images: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
    """Join the tensors of several questions along their first dimension.

    Images cut into different numbers of tiles (second dimension) are padded with zeros, as their
    processors do; a model reads the true number from ``image_sizes``, or leaves out what is zero.
    """
    stacked = {}
    for name in images[0].tensors if images else ():
        parts = [image.tensors[name] for image in images]
        if parts[0].ndim >= 4:  # (questions, tiles, ...); elsewhere the second is the same for all
            most = max(part.shape[1] for part in parts)
            parts = [_with_tiles(part, most) for part in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})
            raise ModelError(f"images of one batch differ in {name!r}: {shapes}")
        stacked[name] = torch.cat(parts)
    return stacked


def _with_tiles(part: torch.Tensor, tiles: int) -> torch.Tensor:
    """Fill the second dimension up with zeros."""
    behind = [0, 0] * (part.ndim - 2)
    return F.pad(part, [*behind, 0, tiles - part.shape[1]])
