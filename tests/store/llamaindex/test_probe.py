"""Every store proves that its order is ours, and one that cannot is refused with what to set."""

from __future__ import annotations

import numpy as np
import pytest
from llama_index.core.vector_stores import SimpleVectorStore

from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers
from tests.store.llamaindex.own_store import OwnVectorStore

SCHEMAS = [
    StoreSchema("t@0", "", 8),
    StoreSchema("t@0", "", 512),
    StoreSchema("t@0", "", 8, blocks=Blocks(8, 3, 5, (1.5, 0.5, 1.0, 2.0, 0.75, 3.0))),
]
FAULTS = [
    ({"order": "cosine"}, "ranks by cosine"),
    ({"order": "l2"}, r"ranks by distance \(L2\)"),
    ({"order": "least"}, "the least first"),
    ({"change": "normalise"}, "ranks by cosine"),
    ({"change": "clip"}, "order is not|changes vectors"),
    ({"change": "round"}, "changes vectors"),
    ({"filters": False}, "filters do not find"),
    ({"stores_text": False}, "without its report"),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["8", "512", "blocks"])
@pytest.mark.parametrize(("settings", "said"), FAULTS)
def test_what_does_not_rank_by_inner_product_is_refused_and_left_as_it_was(schema, settings, said):
    store = OwnVectorStore(**settings)
    with pytest.raises(StoreError, match=f"OwnVectorStore.*({said})"):
        PairStore.create(store, schema)
    assert not store.client


@pytest.mark.parametrize("removes", ["", "fails"])
def test_a_store_that_keeps_what_is_removed_is_refused(removes):
    with pytest.raises(StoreError, match=r"delete_nodes"):
        PairStore.create(OwnVectorStore(removes=removes), SCHEMAS[0])


def test_the_reason_comes_first_and_what_could_not_be_removed_is_said():
    with pytest.raises(StoreError, match=r"ranks by cosine.*could not be removed: remove them"):
        PairStore.create(OwnVectorStore(order="cosine", removes="fails"), SCHEMAS[0])


@pytest.mark.parametrize("schema", SCHEMAS, ids=["8", "512", "blocks"])
def test_what_does_is_taken_and_proven_again_without_a_write(schema, pairs, units):
    own = OwnVectorStore()
    with PairStore.create(own, schema) as store:
        assert len(store) == 0
    own.writable = False
    assert PairStore.exists(own)
    with PairStore.open(own) as store:
        assert store.schema == schema
    own.order = "cosine"
    with pytest.raises(StoreError, match="ranks by cosine"):
        PairStore.open(own)


@pytest.mark.slow
def test_a_store_in_use_is_proven_among_its_own_nodes(pairs, units):
    """Nearer ones than the known vectors, thousands of them, are there, and other people's."""
    own = OwnVectorStore()
    schema = StoreSchema("t@0", "", 8)
    with PairStore.create(own, schema) as store:
        store.upsert(pairs(2000), units(2000, seed=1), units(2000, seed=2))
    foreign = [node.model_copy(update={"id_": f"f{i}", "metadata": {"source": "web"}})
               for i, node in enumerate(list(own.client.values())[:50])]  # fmt: skip
    own.add(foreign)
    with PairStore.open(own) as store:
        assert len(store) == 2000
        hits = store.query(*units(2, seed=3), FusionWeights(1, -0.5, 2), 20)
        assert len(hits) == 20
        assert all(hit.pair_id.startswith("p") for hit in hits)


def test_no_limit_of_a_store_makes_too_few(pairs, units):
    own = OwnVectorStore(most=20)
    with PairStore.create(own, StoreSchema("t@0", "", 8)) as store:
        store.upsert(pairs(100), units(100, seed=1), units(100, seed=2))
        assert len(store.query(*units(2, seed=3), FusionWeights(), 50)) == 50


def test_an_empty_vector_store_is_no_pair_store():
    assert not PairStore.exists(OwnVectorStore())
    with pytest.raises(StoreError, match="not a pair store"):
        PairStore.open(OwnVectorStore())


def test_stores_of_llama_index_that_cannot_are_named(tmp_path):
    chromadb = pytest.importorskip("chromadb")
    chroma = pytest.importorskip("llama_index.vector_stores.chroma")
    schema = StoreSchema("t@0", "", 8)
    with pytest.raises(StoreError, match=r"SimpleVectorStore.*texts"):
        PairStore.create(SimpleVectorStore(), schema)
    client = chromadb.PersistentClient(tmp_path / "c")
    for space, said in (("l2", r"\(L2\)"), ("cosine", "cosine"), ("ip", "vectors")):
        collection = client.create_collection(
            f"in-{space}", configuration={"hnsw": {"space": space}}
        )
        with pytest.raises(StoreError, match=f"ChromaVectorStore.*{said}.*chromadb client"):
            PairStore.create(chroma.ChromaVectorStore(chroma_collection=collection), schema)
        assert collection.count() == 0


@pytest.mark.slow
def test_collections_of_qdrant_and_milvus_that_rank_otherwise_are_refused(tmp_path):
    from llama_index.vector_stores.milvus import MilvusVectorStore
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    schema = StoreSchema("t@0", "", 8)
    client = QdrantClient(":memory:")
    for distance in (models.Distance.COSINE, models.Distance.EUCLID):
        name = distance.value
        client.create_collection(name, models.VectorParams(size=16, distance=distance))
        store = QdrantVectorStore(name, client=client)
        with pytest.raises(StoreError, match=f"ranks by {name.lower()}.*Distance.DOT"):
            PairStore.create(store, schema)
        with pytest.raises(StoreError, match="ranks by"):
            PairStore.open(store)
    for metric in ("COSINE", "L2"):
        store = MilvusVectorStore(
            uri=str(tmp_path / "m.db"),
            collection_name=metric,
            dim=16,
            similarity_metric=metric,
            index_config={"metric_type": metric},
            upsert_mode=True,
            use_async_client=False,
        )
        with pytest.raises(StoreError, match=f'ranks by {metric}.*similarity_metric="IP"'):
            PairStore.create(store, schema)


@pytest.mark.slow
def test_an_index_over_an_application_s_own_stores(tmp_path, pairs, units):
    from llama_index.vector_stores.milvus import MilvusVectorStore
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    towers = load_towers("phantom")
    schema = StoreSchema.of(towers)
    milvus = MilvusVectorStore(
        uri=str(tmp_path / "m.db"), dim=schema.length, upsert_mode=True, use_async_client=False
    )
    client = QdrantClient(":memory:")
    for own in (OwnVectorStore(), QdrantVectorStore("own", client=client), milvus):
        made = pairs(30)
        half = schema.dimension
        with PairStore.create(own, schema) as store:
            store.upsert(made, units(30, half, seed=1), units(30, half, seed=2))
        with MRRAGIndex.from_store(own).store as store:
            assert sorted(store.pair_ids()) == sorted(pair.pair_id for pair in made)
            vector = units(1, half, seed=3)[0]
            hits = store.query(vector, None, FusionWeights.alone("image_image"), 5)
            exact = np.sort(units(30, half, seed=1) @ vector)[::-1][:5]
            assert [hit.score for hit in hits] == pytest.approx(exact, abs=1e-6)
