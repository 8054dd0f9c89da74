"""The pairs that a training question tries: what the score finds, less what would give it away."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.mcr.score import fuse
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.store.hits import Exclusion, Hit
from mrrag_llamaindex.store.protocol import PairStore

SAME_IMAGE = 1.0 - 1e-6
"""Cosine of two images that are one: the question's own, stored under another patient or none."""


def find_candidates(
    store: PairStore,
    q_image: NDArray[np.float32],
    q_text: NDArray[np.float32],
    settings: MiningSettings,
    exclude: Exclusion,
) -> list[Hit]:
    """Return pairs that may be evidence, with their fused scores, best first.

    Fewer than asked for come back only when the store holds no more.
    """
    count = settings.candidates
    weights = settings.weights.weights_for(q_image, q_text)
    rankings = [_allowed(store, q_image, q_text, weights, count, exclude)]
    if settings.pool == "each_term":
        terms = TERMS if store.schema.blocks.terms == HEAD_TERMS else ALL_TERMS
        share = math.ceil(count / (1 + len(terms)))
        for name in terms:
            single = FusionWeights(**{**dict.fromkeys(ALL_TERMS, 0.0), name: 1.0})
            rankings.append(_allowed(store, q_image, q_text, single, share, exclude))
    candidates: dict[str, Hit] = {}
    for hit in filter(None, chain.from_iterable(zip_longest(*rankings))):
        if len(candidates) < count:
            candidates.setdefault(hit.pair_id, hit)
    scored = [
        replace(hit, score=float(fuse(list(hit.terms.values()), weights)))
        for hit in candidates.values()
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.pair_id))


def _allowed(
    store: PairStore,
    q_image: NDArray[np.float32],
    q_text: NDArray[np.float32],
    weights: FusionWeights,
    count: int,
    exclude: Exclusion,
) -> list[Hit]:
    """Return the best-scored pairs that have a report, and are not the image itself."""
    exclude = store.with_views(exclude)
    same_image = SAME_IMAGE * store.schema.blocks.scale("image_image")
    while True:
        hits = store.query(q_image, q_text, weights, count, exclude)
        unfit = {
            hit.pair_id for hit in hits if not hit.report.strip() or hit.image_image >= same_image
        }
        if not unfit:
            return hits
        exclude = replace(exclude, pair_ids=exclude.pair_ids | unfit)
