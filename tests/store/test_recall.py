"""The approximate search finds what an exact scan finds."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pytest

from mrrag_llamaindex.mcr.score import FusionWeights, fuse, similarity_terms
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

pytestmark = pytest.mark.slow

COUNT, DIMENSION, QUERIES = 3000, 64, 20
WEIGHTS = [
    (1, 1, 1),
    (1, 0, 0),
    (0, 0, 1),
    (1, -0.3, 1),
    (-1, 0.5, 2),
]
PLACES = ["memory", "qdrant::memory:", "milvus:{}/store.db"]
PLACES += [
    f"{engine}+{address}"
    for engine in ("qdrant", "milvus")
    if (address := os.environ.get(f"MRRAG_TEST_{engine.upper()}"))
]


def towers_like(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clustered vectors with a gap between the modalities, as dual encoders give them."""
    fixed = np.random.default_rng(0)
    centres = fixed.standard_normal((30, DIMENSION))
    gap = 1.5 * fixed.standard_normal((2, DIMENSION))
    rng = np.random.default_rng(seed)
    which = rng.choice(30, size=rows, p=rng.dirichlet(np.full(30, 0.5)))
    halves = []
    for modality in range(2):
        noise = rng.standard_normal((rows, DIMENSION))
        half = centres[which] + gap[modality] + 0.7 * noise
        halves.append((half / np.linalg.norm(half, axis=1, keepdims=True)).astype(np.float32))
    return halves[0], halves[1]


@pytest.fixture(scope="module", params=PLACES)
def filled(request, tmp_path_factory):
    d_image, d_text = towers_like(COUNT, seed=1)
    missing = np.random.default_rng(2).random(COUNT) < 0.05
    d_image[missing] = 0
    made = [Pair(None if missing[i] else "a.png", "r", f"p{i}") for i in range(COUNT)]
    place, name = request.param.format(tmp_path_factory.mktemp("store")), f"r{uuid.uuid4().hex}"
    with PairStore.create(place, StoreSchema("toy@1", "", DIMENSION), collection=name) as store:
        store.upsert(made, d_image, d_text)
        yield store, d_image, d_text


@pytest.mark.parametrize("weights", WEIGHTS)
def test_recall_at_ten_against_an_exact_scan(filled, weights) -> None:
    store, d_image, d_text = filled
    fusion = FusionWeights(*weights)
    q_images, q_texts = towers_like(QUERIES, seed=3)
    found = 0
    for q_image, q_text in zip(q_images, q_texts, strict=True):
        exact = fuse(similarity_terms(q_image, q_text, d_image, d_text), fusion)
        tenth = np.sort(exact)[-10]
        hits = store.query(q_image, q_text, fusion, k=10)
        # By score, so that a tie at the tenth place does not count as a miss.
        found += sum(exact[int(hit.pair_id[1:])] >= tenth - 1e-6 for hit in hits)
    assert found >= 0.99 * 10 * QUERIES
