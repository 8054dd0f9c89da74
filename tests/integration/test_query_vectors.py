"""A question's vectors are made once, kept with its image, and let go with it."""

from __future__ import annotations

import gc
import io
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from llama_index.core import QueryBundle
from PIL import Image

from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.vectors import query_vectors
from mrrag_llamaindex.integration.postprocessor import MRRAGPostprocessor
from mrrag_llamaindex.integration.query_image import query_image
from mrrag_llamaindex.integration.retriever import MRRAGRetriever
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers


def film(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def towers(monkeypatch):
    """Towers of one's own that count what they embed."""
    loaded = load_towers("phantom", device="cpu")
    counts = Counter()

    def counted(name, embed):
        def counting(items, *more):
            counts[name] += len(items)
            return embed(items, *more)

        return counting

    for name in ("embed_images", "embed_texts"):
        monkeypatch.setattr(loaded, name, counted(name, getattr(loaded, name)))
    loaded.counts = counts
    return loaded


@pytest.fixture
def store(towers):
    schema = StoreSchema.of(towers)
    made = PairStore.create("numpy", schema)
    pairs = [Pair(film(n), f"Nodule {n}.", f"p{n}") for n in range(4)]
    made.upsert(
        pairs,
        towers.embed_images([pair.image for pair in pairs]),
        towers.embed_texts([pair.report for pair in pairs]),
    )
    towers.counts.clear()
    return made


def test_ranking_again_by_other_weights_embeds_nothing_and_decodes_nothing(store, towers):
    image = QueryImage.read(_png(7))
    ranked = []
    for weight in (0.0, 0.5, 1.0, 2.0):
        weights = FusionWeights(image_text=weight, image_image=1.0, text_text=weight)
        nodes = MRRAGRetriever(store, towers, weights).nodes_about("Is there a nodule?", image)
        ranked.append([node.score for node in nodes])
        image.release_pixels()
    assert towers.counts == {"embed_images": 1, "embed_texts": 1}
    assert "rgb" not in image.__dict__
    assert ranked[0] != ranked[3]
    fresh = MRRAGRetriever(store, towers, FusionWeights(2.0, 1.0, 2.0))
    nodes = fresh.nodes_about("Is there a nodule?", QueryImage.read(_png(7)))
    assert [node.score for node in nodes] == ranked[3]


def test_a_reranker_behind_the_retriever_embeds_nothing_again(store, towers):
    retriever = MRRAGRetriever(store, towers)
    bundle = QueryBundle("Is there a nodule?")
    with query_image(_png(7)):
        nodes = retriever.retrieve(bundle)
        again = MRRAGPostprocessor(store=store, towers=towers).postprocess_nodes(nodes, bundle)
    assert [item.score for item in again] == pytest.approx([item.score for item in nodes])
    assert towers.counts == {"embed_images": 1, "embed_texts": 1}


def test_another_question_image_or_towers_have_vectors_of_their_own(towers):
    one, other = QueryImage.read(_png(1)), QueryImage.read(_png(2))
    first, asked = query_vectors(towers, ["Is there a nodule?"], one)
    same, another = query_vectors(towers, ["Is the heart large?"], one)
    assert same is first
    assert not np.array_equal(asked, another)
    assert not np.array_equal(query_vectors(towers, ["Is there a nodule?"], other)[0], first)
    both, _ = query_vectors(towers, ["Is there a nodule?", "Nodule."], one)
    assert both is first
    with torch.no_grad():
        for parameter in towers.network.parameters():
            parameter.add_(0.01)
    moved, _ = query_vectors(towers, ["Is there a nodule?"], one)
    assert not np.array_equal(moved, first)
    assert np.array_equal(towers.embed_images([one.rgb])[0], moved)


@pytest.mark.slow
def test_few_are_kept_and_they_go_with_the_image(towers):
    image = QueryImage.read(_png(1))
    for number in range(50):
        query_vectors(towers, [f"Is there a nodule {number}?"], image)
    assert len(image.__dict__["_kept"]) <= 8
    vector = weakref.ref(query_vectors(towers, ["Is there a nodule 49?"], image)[1])
    assert vector() is not None
    del image
    gc.collect()
    assert vector() is None


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    film(seed).save(file, "PNG")
    return file.getvalue()
