"""Records are LlamaIndex nodes: a stock `ChromaVectorStore` on the same collection reads them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.score import FusionWeights, fused_query
from mrrag_llamaindex.store.chroma.record import encode
from mrrag_llamaindex.store.hits import StoredPair
from mrrag_llamaindex.store.pair import Pair

chroma = pytest.importorskip("llama_index.vector_stores.chroma")


def test_stock_vector_store_finds_the_same_pairs_with_our_score(store, units, pairs) -> None:
    made = pairs(30, metadata=lambda i: {"finding": f"finding{i % 3}", "study_id": i})
    store.upsert(made, units(30, seed=1), units(30, seed=2))
    stock = chroma.ChromaVectorStore(chroma_collection=store.collection)
    q_image, q_text = units(2, seed=3)
    weights = FusionWeights(0.5, 1, 2)
    vector = fused_query(q_image, q_text, weights).tolist()
    result = stock.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=5))
    hits = store.query(q_image, q_text, weights, k=5)
    assert [node.node_id for node in result.nodes] == [hit.pair_id for hit in hits]
    for node, similarity, hit in zip(result.nodes, result.similarities, hits, strict=True):
        assert type(node) is TextNode
        assert node.text == hit.report
        assert 1 + math.log(similarity) == pytest.approx(hit.score, abs=1e-5)
        # Nothing but the report reaches a prompt or an embedding: no label, patient or path.
        assert node.get_content(MetadataMode.LLM) == hit.report
        assert node.get_content(MetadataMode.EMBED) == hit.report
        assert node.metadata["finding"] == hit.metadata["finding"]
        assert node.metadata["image_path"] == hit.image_path


def test_stock_filters_work_on_our_metadata(store, units, pairs) -> None:
    store.upsert(pairs(9, metadata=lambda i: {"view": "PA" if i < 3 else "AP"}), units(9), units(9))
    stock = chroma.ChromaVectorStore(chroma_collection=store.collection)
    query = VectorStoreQuery(
        query_embedding=fused_query(*units(2), FusionWeights()).tolist(),
        similarity_top_k=9,
        filters=MetadataFilters(filters=[MetadataFilter(key="view", value="PA")]),
    )
    assert sorted(stock.query(query).ids) == ["p0", "p1", "p2"]


def test_record_is_what_llama_index_itself_would_write() -> None:
    pair = Pair("/data/a.png", "text", "p1", "anna", {"study_id": "s", "age": 4})
    document, record = encode(StoredPair.of(pair, np.zeros(16, dtype=np.float32), "f"))
    content = json.loads(record["_node_content"])
    node = TextNode(
        id_="p1",
        text="text",
        metadata=content["metadata"],
        excluded_embed_metadata_keys=list(content["metadata"]),
        excluded_llm_metadata_keys=list(content["metadata"]),
    )
    theirs = node_to_metadata_dict(node, remove_text=True, flat_metadata=True)
    assert content == json.loads(theirs["_node_content"])
    own = ("mrrag_fingerprint", "mrrag_checksum")
    ours = {key: value for key, value in record.items() if key not in own}
    assert ours.keys() == theirs.keys()
    assert {**ours, "_node_content": ""} == {**theirs, "_node_content": ""}
    assert document == "text"


def test_replaced_record_keeps_no_key_of_the_one_before(store, units) -> None:
    # Chroma merges metadata on upsert: what a stock filter sees must be gone as well.
    store.upsert([Pair("a.png", "old", "p", metadata={"label": "x"})], units(1), units(1))
    store.upsert([Pair(None, "new", "p")], np.zeros((1, 8)), units(1))
    assert not {"label", "image_path"} & set(store.collection.get(ids=["p"])["metadatas"][0])


def test_node_that_llama_index_added_is_read_as_a_hit(store, units) -> None:
    stock = chroma.ChromaVectorStore(chroma_collection=store.collection)
    image, text = units(2, seed=1)
    vector = [*image.tolist(), *text.tolist()]
    stock.add([TextNode(id_="n1", text="foreign", metadata={"study_id": "s"}, embedding=vector)])
    [hit] = store.query(image, text, FusionWeights(), k=1)
    assert (hit.pair_id, hit.report, hit.study_id) == ("n1", "foreign", "s")
    assert (hit.patient_id, hit.missing, hit.image_image) == (None, None, pytest.approx(1.0))


def test_more_metadata_than_chroma_can_apply_are_refused_by_name(store, units) -> None:
    pair = Pair("a.png", "r", "p", metadata={f"key{i}": i for i in range(5_001)})
    with pytest.raises(InputError, match=r"'p' has 5,001 metadata, and Chroma keeps 5,000"):
        store.upsert([pair], units(1), units(1))
