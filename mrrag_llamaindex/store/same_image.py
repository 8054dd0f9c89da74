"""Which stored pairs are the question's own: those of its image, under whatever name."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.hits import Hit
from mrrag_llamaindex.store.protocol import PairStore

SAME_IMAGE: Final = 1.0 - 1e-6
"""Cosine of two images that are one."""

_AT_FIRST = 8


def same_image(store: PairStore) -> float:
    """Return `SAME_IMAGE` in the scale of the store's image-image term."""
    return SAME_IMAGE * store.schema.blocks.scale("image_image")


def pairs_of_image(store: PairStore, image_vector: NDArray[np.float32]) -> list[Hit]:
    """Return every stored pair that has this image.

    Parameters
    ----------
    store
        Made with the towers that made the vector.
    image_vector
        q_i, of the question's image.
    """
    count, least = _AT_FIRST, same_image(store)
    while True:
        hits = store.query(image_vector, None, FusionWeights.alone("image_image"), count)
        own = [hit for hit in hits if hit.image_image >= least]
        if len(own) < len(hits) or len(hits) < count:
            return own
        count *= 4
