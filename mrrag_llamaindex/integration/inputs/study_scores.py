r"""Several images of one study in one question: one score for each pair.

With images ``q_1 ... q_V`` of the study and the question's text, and the score ``f`` of Eq. 1,

    mean:  f(q, d) = 1/V sum over v of f(q_v, d)
    max:   f(q, d) = max over v of f(q_v, d)

The mean is one search: ``f`` is linear in the image's vector, so it is the score of the mean
vector ``m``. That is shorter than 1, and ``<m, d> = |m| <m / |m|, d>``, so the search takes
``m / |m|`` and weights times ``|m|``. The maximum takes one search for each image: what is among
the best k of all is among the best k of the image that gives it its score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.integration.inputs.vectors import unit_mean
from mrrag_llamaindex.mcr.blocks import TERM_BLOCKS, Blocks
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.mcr.weights_file import AnyWeights
from mrrag_llamaindex.store.filters import Filter
from mrrag_llamaindex.store.hits import Exclusion, Hit
from mrrag_llamaindex.store.protocol import PairStore

CombineImages: TypeAlias = Literal["mean", "max"]
COMBINE_IMAGES: Final = get_args(CombineImages)

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AskedView:
    """One vector that a question is searched with.

    Attributes
    ----------
    image, text : ndarray of float32, shape (n,), or None
    weights : FusionWeights
        Those of the search: the question's, times `lengths`.
    lengths : mapping of str to float
        By similarity term: the length of what `image` was before it was made a unit vector.
    """

    image: Vector | None
    text: Vector | None
    weights: FusionWeights
    lengths: Mapping[str, float]

    def told(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Return terms of this search as terms of the question."""
        return {name: value * self.lengths.get(name, 1.0) for name, value in terms.items()}


def asked_views(
    images: NDArray[Any] | None,
    text: Vector | None,
    weights: AnyWeights,
    blocks: Blocks,
    combine: CombineImages = "mean",
) -> tuple[list[AskedView], FusionWeights]:
    """Return what a question is searched with, and its fusion weights.

    Parameters
    ----------
    images : ndarray, shape (images, n), or None
        Unit vectors of its images.
    text : ndarray, shape (n,), or None
    weights : FusionWeights or GatedWeights
        Weights that depend on the question are those of its mean image.
    blocks : Blocks
        Of the towers.
    combine : {"mean", "max"}

    Raises
    ------
    InputError
        If the images point in opposite directions.
    """
    if images is None or len(images) == 1:
        image = None if images is None else np.asarray(images[0], dtype=np.float32)
        own = weights.weights_for(image, text)
        return [AskedView(image, text, own, {})], own
    mean, lengths = unit_mean(blocks, "image", images)
    own = weights.weights_for(mean, text)
    if combine == "max":
        return [AskedView(np.asarray(one, np.float32), text, own, {}) for one in images], own
    shorter = {
        term: lengths[block]
        for term, ((kind, block), _) in TERM_BLOCKS.items()
        if kind == "image" and block in lengths
    }
    values = {name: value * shorter.get(name, 1.0) for name, value in own.as_dict().items()}
    return [AskedView(mean, text, FusionWeights(**values), shorter)], own


def query_views(
    store: PairStore,
    views: Sequence[AskedView],
    k: int,
    exclude: Exclusion | None = None,
    filters: Filter | None = None,
) -> list[Hit]:
    """Return the k pairs of highest score, as `PairStore.query`, over all views."""
    found: dict[str, Hit] = {}
    for view in views:
        hits = store.query(view.image, view.text, view.weights, k, exclude, filters)
        _keep_best(found, view, hits)
    return sorted(found.values(), key=lambda hit: (-hit.score, hit.pair_id))[:k]


def score_views(
    store: PairStore, views: Sequence[AskedView], pair_ids: Iterable[str]
) -> dict[str, Hit]:
    """Return the given pairs as scored hits, as `PairStore.score`, over all views."""
    ids, found = list(pair_ids), dict[str, Hit]()
    for view in views:
        hits = store.score(ids, view.image, view.text, view.weights)
        _keep_best(found, view, hits.values())
    return found


def _keep_best(found: dict[str, Hit], view: AskedView, hits: Iterable[Hit]) -> None:
    for hit in hits:
        if hit.pair_id not in found or hit.score > found[hit.pair_id].score:
            terms: dict[str, Any] = view.told(hit.terms) if view.lengths else {}
            found[hit.pair_id] = replace(hit, **terms)
