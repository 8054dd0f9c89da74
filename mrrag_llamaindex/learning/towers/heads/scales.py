"""The scale of each similarity, so that equal weights mean equal influence."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrrag_llamaindex.learning.towers.heads.encoder import HeadFeatures
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import similarity_terms
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.towers.projection_head import Head
from mrrag_llamaindex.towers.raw_projection import RawProjection

_MOST_PAIRS = 2000
_LEAST_SPREAD = 1e-6


def vectors_of(head: Head, raw: RawProjection | None, features: Tensor) -> NDArray[np.float32]:
    """Return ``[head ; raw]`` of features, shape (m, d); each part of unit length or zero."""
    with torch.inference_mode():
        parts = [nn.functional.normalize(head(features), dim=1)]
        if raw is not None:
            parts.append(nn.functional.normalize(raw(features), dim=1))
        return torch.cat(parts, dim=1).numpy()


def term_scales(
    heads: tuple[Head, Head],
    raw: tuple[RawProjection, RawProjection],
    features: HeadFeatures,
    rows: Tensor,
) -> tuple[float, ...]:
    """Return a scale for each of `ALL_TERMS`: what makes it vary as much as the others do.

    How much a similarity moves the ranking is how much it differs between the pairs of one
    question. Its standard deviation over pairs of other patients is taken, for each question, and
    the mean over questions. The scales are the inverse of these, times their geometric mean, so
    that scores keep the size of a cosine.

    Parameters
    ----------
    heads
        Of images and of texts.
    raw
        The same.
    features
        Of all pairs. A pair's question is what its column says, else its own report.
    rows
        Pairs that the heads were not fitted on, of two patients at least.
    """
    chosen = rows[:_MOST_PAIRS]
    image = vectors_of(heads[0], raw[0], features.image[chosen])
    text = vectors_of(heads[1], raw[1], features.text[chosen])
    question = text
    asked = features.asked[chosen].numpy()
    if features.question is not None and asked.sum() > 1:
        question = vectors_of(heads[1], raw[1], features.question[chosen])
    else:
        asked = np.ones(len(chosen), dtype=bool)
    blocks = Blocks(heads[0].dimension, raw[0].length, raw[1].length)
    owner = features.owner[chosen].numpy()
    spreads = []
    for place in np.flatnonzero(asked):
        others = owner != owner[place]
        if others.sum() > 1:
            halves = image[others], text[others]
            terms = similarity_terms(
                image[place], question[place], *halves, terms=ALL_TERMS, blocks=blocks
            )
            spreads.append(terms.std(axis=0))
    if not spreads:
        return blocks.scales
    spread = np.maximum(np.mean(spreads, axis=0), _LEAST_SPREAD)
    return tuple((np.exp(np.log(spread).mean()) / spread).tolist())
