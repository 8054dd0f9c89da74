"""Weights and calibration beside a store: found, refused, overruled, and shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from llama_index.core import QueryBundle
from llama_index.core.schema import MetadataMode

from mrrag_llamaindex import FusionWeights, MRRAGIndex, MRRAGPostprocessor, MRRAGRetriever, Pair
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.calibration import Calibration, weights_digest
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from tests.integration.conftest import FINDINGS, study_image

QUESTION = "Is there a pleural effusion?"
OTHER = "Is there a fracture?"
LEARNED = FusionWeights(0.5, 2.0, -0.25)
TERMS = ("image_text", "image_image", "text_text", "text_image")


@pytest.fixture(scope="module")
def filled(towers, tmp_path_factory):
    """Folder of a store of 12 pairs."""
    folder = tmp_path_factory.mktemp("beside") / "store"
    pairs = [
        Pair(
            study_image(n), f"There is {FINDINGS[n % 5]}. No {FINDINGS[(n + 1) % 5]}.", f"pair-{n}"
        )
        for n in range(12)
    ]
    MRRAGIndex.from_pairs(pairs, towers, folder).store.close()
    return folder


@pytest.fixture
def folder(filled):
    """The same folder, with nothing learned beside the store before and after."""
    yield filled
    for name in ("fusion_weights.json", "calibration.json"):
        (filled / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "query.png"
    study_image(99).save(path)
    return QueryBundle(QUESTION, image_path=str(path))


def curve(towers, weights, **options) -> Calibration:
    knots = ((-3.0, 0.1), (3.0, 0.9))
    return Calibration("isotonic", knots, towers.identity, weights_digest(weights), **options)


def facts_of(nodes):
    return [item.node.metadata["mrrag"] for item in nodes]


def test_weights_beside_the_store_are_used_and_nothing_is_indexed_again(folder, towers, bundle):
    before = MRRAGIndex.from_store(folder, towers=towers)
    assert before.weights == FusionWeights()
    vectors = {key: pair.vector for key, pair in before.store.get(["pair-3"]).items()}
    equal = before.as_retriever().retrieve(bundle)
    LEARNED.save(folder / "fusion_weights.json", towers_identity=towers.identity)
    after = MRRAGIndex.from_store(folder, towers=towers)
    assert after.weights == LEARNED
    assert len(after.store) == 12
    assert (after.store.get(["pair-3"])["pair-3"].vector == vectors["pair-3"]).all()
    nodes = after.as_retriever().retrieve(bundle)
    for fact in facts_of(nodes):
        assert fact["weights"] == LEARNED.as_dict()
        total = sum(fact[name] * value for name, value in LEARNED.as_dict().items())
        assert fact["score"] == pytest.approx(total, abs=1e-5)
    assert nodes[0].score != pytest.approx(equal[0].score, abs=1e-3)


def test_weights_of_other_towers_are_refused_at_opening(folder, towers):
    LEARNED.save(folder / "fusion_weights.json", towers_identity="other@0123456789abcdef")
    with pytest.raises(InputError, match="other@0123456789abcdef") as caught:
        MRRAGIndex.from_store(folder, towers=towers)
    assert towers.identity in str(caught.value)
    assert "fusion_weights.json beside the store" in str(caught.value)
    assert MRRAGIndex.from_store(folder, towers=towers, weights=LEARNED).weights == LEARNED


def test_given_weights_win_over_those_beside_the_store(folder, towers, tmp_path):
    LEARNED.save(folder / "fusion_weights.json", towers_identity=towers.identity)
    given = FusionWeights(0, 1, 0)
    given.save(tmp_path / "w.json", towers_identity=towers.identity)
    for weights in (given, tmp_path / "w.json", str(tmp_path / "w.json")):
        index = MRRAGIndex.from_store(folder, towers=towers, weights=weights)
        assert index.weights == given
        assert index.as_retriever(weights=LEARNED).weights == LEARNED
    LEARNED.save(tmp_path / "w.json", towers_identity="other@1")
    with pytest.raises(InputError, match="other@1"):
        MRRAGIndex.from_store(folder, towers=towers, weights=tmp_path / "w.json")


def test_store_in_memory_has_nothing_beside_it(hospital):
    assert hospital.index.weights == FusionWeights()
    assert hospital.index.calibration is None


@pytest.fixture(scope="module")
def gate(towers) -> QueryGatedWeights:
    """Weights that turn on which of the two questions is asked."""
    first, second = towers.embed_texts([QUESTION, OTHER])
    towards = 5 * (first - second) / np.square(first - second).sum()
    hidden = np.concatenate([np.zeros(towers.dimension), towards])[None]
    out = np.array([[1.0], [-1.0], [0.5], [0.8]])
    return QueryGatedWeights(FusionWeights(), hidden, [-5 * _middle(first, second)], out, [0] * 4)


def _middle(first, second) -> float:
    apart = first - second
    return float((first + second) / 2 @ apart / np.square(apart).sum())


def test_each_question_gets_its_own_weights_and_says_which(folder, towers, gate, bundle):
    gate.save(folder / "fusion_weights.json", towers_identity=towers.identity)
    index = MRRAGIndex.from_store(folder, towers=towers)
    used = []
    for question in (QUESTION, OTHER):
        asked = QueryBundle(question, image_path=bundle.image_path)
        for nodes in (
            index.as_retriever().retrieve(asked),
            MRRAGPostprocessor(index).postprocess_nodes(
                index.as_retriever(stamped=False).retrieve(asked), query_bundle=asked
            ),
        ):
            for fact in facts_of(nodes):
                total = sum(fact[name] * value for name, value in fact["weights"].items())
                assert fact["score"] == pytest.approx(total, abs=1e-5)
            used.append(facts_of(nodes)[0]["weights"])
    assert set(used[0]) == set(TERMS)
    assert used[0] == pytest.approx(used[1])
    assert used[2] == pytest.approx(used[3])
    assert used[0]["image_text"] > 1.3
    assert used[2]["image_text"] < 0.7


def test_what_was_learned_stays_out_of_the_prompt(folder, towers, bundle):
    index = MRRAGIndex.from_store(folder, towers=towers, calibration=curve(towers, FusionWeights()))
    node = index.as_retriever(stamped=False).retrieve(bundle)[0].node
    assert {"probability", "weights"} <= node.metadata["mrrag"].keys()
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert node.get_content(metadata_mode=mode) == node.get_content(MetadataMode.NONE)


def test_postprocessor_embeds_unknown_nodes_with_the_fourth_term(folder, towers, bundle):
    from llama_index.core.schema import NodeWithScore, TextNode

    weights = FusionWeights(1, 1, 1, 0.5)
    index = MRRAGIndex.from_store(folder, towers=towers, weights=weights)
    node = TextNode(text="No nodule.", metadata={"image_path": bundle.image_path})
    (item,) = MRRAGPostprocessor(index).postprocess_nodes(
        [NodeWithScore(node=node)], query_bundle=bundle
    )
    fact = item.node.metadata["mrrag"]
    assert fact["image_image"] == pytest.approx(1, abs=1e-5)
    assert fact["text_image"] != 0
    total = sum(fact[name] * value for name, value in weights.as_dict().items())
    assert item.score == pytest.approx(total, abs=1e-6)


def test_calibration_beside_the_store_gives_every_node_its_probability(folder, towers, bundle):
    LEARNED.save(folder / "fusion_weights.json", towers_identity=towers.identity)
    curve(towers, LEARNED).save(folder / "calibration.json")
    index = MRRAGIndex.from_store(folder, towers=towers)
    assert index.calibration == curve(towers, LEARNED)
    nodes = index.as_retriever().retrieve(bundle)
    assert len(nodes) == 6
    for item in nodes:
        expected = 0.1 + 0.8 * (item.score + 3) / 6
        assert item.node.metadata["mrrag"]["probability"] == pytest.approx(expected)
        assert "left_out" not in item.node.metadata["mrrag"]
    again = MRRAGPostprocessor(index).postprocess_nodes(nodes, query_bundle=bundle)
    for item, other in zip(nodes, again, strict=True):
        value = other.node.metadata["mrrag"]["probability"]
        assert value == pytest.approx(item.node.metadata["mrrag"]["probability"], abs=1e-6)


def test_calibration_of_other_weights_or_towers_is_refused_at_opening(folder, towers):
    curve(towers, LEARNED).save(folder / "calibration.json")
    with pytest.raises(InputError, match=weights_digest(LEARNED)) as caught:
        MRRAGIndex.from_store(folder, towers=towers)
    assert weights_digest(FusionWeights()) in str(caught.value)
    assert "calibration=False" in str(caught.value)
    assert MRRAGIndex.from_store(folder, towers=towers, calibration=False).calibration is None
    assert MRRAGIndex.from_store(folder, towers=towers, weights=LEARNED).calibration is not None
    data = json.loads(curve(towers, FusionWeights()).to_json())
    data["towers_identity"] = "other@0123456789abcdef"
    (folder / "calibration.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="other@0123456789abcdef"):
        MRRAGIndex.from_store(folder, towers=towers)


def test_weights_changed_later_do_not_keep_the_old_calibration(folder, towers):
    index = MRRAGIndex.from_store(folder, towers=towers, calibration=curve(towers, FusionWeights()))
    with pytest.raises(InputError, match="calibrat"):
        index.as_retriever(weights=LEARNED)
    assert index.as_retriever(weights=LEARNED, calibration=False).selection.calibration is None
    own = curve(towers, LEARNED)
    assert index.as_retriever(weights=LEARNED, calibration=own).selection.calibration == own
    retriever = index.as_retriever()
    with pytest.raises(InputError, match="calibrat"):
        retriever.weights = LEARNED
    with pytest.raises(InputError, match="calibrat"):
        MRRAGPostprocessor(index, weights=LEARNED)
    with pytest.raises(InputError, match="calibrat"):
        MRRAGRetriever(index.store, towers, LEARNED, calibration=index.calibration)
