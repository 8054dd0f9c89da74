"""Frozen image encoders by name."""

from __future__ import annotations

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone
from mrrag_llamaindex.towers.backbones.xray import PREFIX, XrayImageBackbone


def load_image_backbone(source: str, size: int | None = None) -> ImageBackbone:
    """Load an image encoder.

    Parameters
    ----------
    source : str
        A folder or hub id of transformers, or ``"xrv:"`` and a name of torchxrayvision.
    size : int, optional
        Pixels on each side, see `TransformersImageBackbone.load`.

    Raises
    ------
    TowerError
        If it cannot be found or is no image encoder, or a size is asked of one that has its own.
    """
    if not source.startswith(PREFIX):
        return TransformersImageBackbone.load(source, size=size)
    if size is not None:
        raise TowerError(f"image encoder {source!r} reads 224 pixels; leave the image size out")
    return XrayImageBackbone.load(source)
