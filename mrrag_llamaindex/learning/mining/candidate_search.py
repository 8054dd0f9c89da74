"""The pairs that a training question tries: what the score finds, less what would give it away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.mcr.score import fuse
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, TERMS, FusionWeights
from mrrag_llamaindex.store.hits import Exclusion, Hit
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.same_image import same_image


def find_candidates(
    store: PairStore,
    q_image: NDArray[np.float32],
    q_text: NDArray[np.float32],
    settings: MiningSettings,
    exclude: Exclusion,
    others: Sequence[str] = (),
) -> list[Hit]:
    """Return pairs that may be evidence, with their fused scores, best first.

    Fewer than asked for come back only when the store holds no more.

    Parameters
    ----------
    store
        Of the pairs.
    q_image, q_text
        Vectors of the question.
    settings
        How many, by which weights, from which pool.
    exclude
        What would give the answer away.
    others
        Ids of pairs in a random order, for `MiningSettings.pool` "mixed": the first third of the
        candidates are those of them that may be evidence.
    """
    count = settings.candidates
    exclude = store.with_views(exclude)
    weights = settings.weights.weights_for(q_image, q_text)
    rankings = [_allowed(store, q_image, q_text, weights, count, exclude)]
    candidates: dict[str, Hit] = {}
    if settings.pool == "mixed":
        drawn = _fitting(store, q_image, q_text, weights, others, exclude)
        candidates = dict(islice(drawn.items(), math.ceil(count / 3)))
    if settings.pool != "fused":
        terms = TERMS if store.schema.blocks.terms == HEAD_TERMS else ALL_TERMS
        share = math.ceil(count / (1 + len(terms)))
        for name in terms:
            single = FusionWeights.alone(name)
            rankings.append(_allowed(store, q_image, q_text, single, share, exclude))
    for hit in filter(None, chain.from_iterable(zip_longest(*rankings))):
        if len(candidates) < count:
            candidates.setdefault(hit.pair_id, hit)
    scored = [
        replace(hit, score=float(fuse(list(hit.terms.values()), weights)))
        for hit in candidates.values()
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.pair_id))


def _fitting(
    store: PairStore,
    q_image: NDArray[np.float32],
    q_text: NDArray[np.float32],
    weights: FusionWeights,
    pair_ids: Sequence[str],
    exclude: Exclusion,
) -> dict[str, Hit]:
    """Return those of the pairs that may be evidence, by id, in their order."""
    hits = store.score(pair_ids, q_image, q_text, weights)
    same = same_image(store)
    return {
        pair_id: hit
        for pair_id, hit in hits.items()
        if not exclude.excludes(hit) and not _unfit(hit, same)
    }


def _unfit(hit: Hit, same_image: float) -> bool:
    return not hit.report.strip() or hit.image_image >= same_image


def _allowed(
    store: PairStore,
    q_image: NDArray[np.float32],
    q_text: NDArray[np.float32],
    weights: FusionWeights,
    count: int,
    exclude: Exclusion,
) -> list[Hit]:
    """Return the best-scored pairs that have a report, and are not the image itself."""
    same = same_image(store)
    while True:
        hits = store.query(q_image, q_text, weights, count, exclude)
        unfit = {hit.pair_id for hit in hits if _unfit(hit, same)}
        if not unfit:
            return hits
        exclude = replace(exclude, pair_ids=exclude.pair_ids | unfit)


def drawn_ids(pair_ids: Sequence[str], settings: MiningSettings, question_id: str) -> list[str]:
    """Return ids of pairs drawn for a question by the seed; enough for a third of its candidates.

    Some of them may be the patient's own, so there are twice as many and eight.
    """
    seed = int(text_digest(f"{settings.seed} {question_id}", 16), 16)
    count = min(len(pair_ids), 2 * math.ceil(settings.candidates / 3) + 8)
    places = np.random.default_rng(seed).choice(len(pair_ids), count, replace=False)
    return [pair_ids[place] for place in places.tolist()]
