"""The index over any back end: deleting goes through the store, collections are kept apart."""

from __future__ import annotations

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGIndex, Pair, PairStore
from mrrag_llamaindex.errors import StoreError
from mrrag_llamaindex.store.schema import StoreSchema
from tests.integration.conftest import study_image


@pytest.fixture(scope="module")
def studies():
    return [Pair(study_image(n), f"Report number {n}.", f"pair-{n}") for n in range(4)]


def test_index_over_the_exact_store_retrieves_and_deletes(towers, studies, tmp_path):
    store = PairStore.create("numpy", StoreSchema(towers.identity, "", towers.dimension))
    index = MRRAGIndex(store, towers)
    index.add_pairs(studies)
    index.delete_nodes(["pair-1"])
    study_image(1).save(tmp_path / "q.png")
    bundle = QueryBundle("Is there an effusion?", image_path=str(tmp_path / "q.png"))
    nodes = index.as_retriever().retrieve(bundle)
    assert sorted(item.node.node_id for item in nodes) == ["pair-0", "pair-2", "pair-3"]
    store.close()
    with pytest.raises(StoreError, match="closed"):
        index.delete_nodes(["pair-2"])


def test_pairs_go_to_the_collection_that_is_named(towers, studies, tmp_path):
    for name, count in (("train", 1), ("test", 3)):
        index = MRRAGIndex.from_pairs(studies[:count], towers, tmp_path / "s", collection=name)
        index.store.close()
    for name, count in (("train", 1), ("test", 3)):
        index = MRRAGIndex.from_store(tmp_path / "s", towers=towers, collection=name)
        assert len(index.store) == count
        index.store.close()
