"""What the store returns: scores, terms, missing halves, and records that are fully replaced."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore

WEIGHTS = [(1, 1, 1), (1, 0, 0), (0, 0, 1), (0.9, 0.05, 2.2), (1, -0.3, 1), (-2, -1, -0.5)]


def hand_score(weights, q_image, q_text, d_image, d_text) -> float:
    a, b, c = weights
    total = 0.0
    for i in range(len(q_image)):
        total += a * float(q_image[i]) * float(d_text[i])
        total += b * float(q_image[i]) * float(d_image[i])
        total += c * float(q_text[i]) * float(d_text[i])
    return total


@pytest.mark.parametrize("weights", WEIGHTS)
def test_score_is_the_hand_computed_fusion(store, units, pairs, weights) -> None:
    d_image, d_text = units(40, seed=1), units(40, seed=2)
    d_image[3] = d_text[4] = 0
    made = pairs(
        40,
        image=lambda i: None if i == 3 else f"{i}.png",
        report=lambda i: None if i == 4 else f"r{i}",
    )
    store.upsert(made, d_image, d_text)
    q_image, q_text = units(2, seed=3)
    hits = store.query(q_image, q_text, FusionWeights(*weights), k=40)
    assert len(hits) == 40
    by_hand = {f"p{i}": hand_score(weights, q_image, q_text, d_image[i], d_text[i])
               for i in range(40)}  # fmt: skip
    for hit in hits:
        assert hit.score == pytest.approx(by_hand[hit.pair_id], abs=1e-5)
        fused = np.dot(weights, [hit.image_text, hit.image_image, hit.text_text])
        assert hit.score == pytest.approx(fused, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    # The exact scorer, used for other retrievers' results, agrees with the search.
    exact = store.score([hit.pair_id for hit in hits], q_image, q_text, FusionWeights(*weights))
    for hit in hits:
        assert exact[hit.pair_id].score == pytest.approx(hit.score, abs=1e-5)


def test_missing_halves_are_marked_and_their_terms_are_exactly_zero(store, units, pairs) -> None:
    d_image, d_text = units(2, seed=1), units(2, seed=2)
    d_image[0] = d_text[1] = 0
    made = pairs(2, image=lambda i: [None, "a.png"][i], report=lambda i: ["text", None][i])
    store.upsert(made, d_image, d_text)
    no_image, no_report = sorted(
        store.query(*units(2, seed=3), FusionWeights(), k=2), key=lambda hit: hit.pair_id
    )
    assert (no_image.missing, no_image.image_image, no_image.image_path) == ("image", 0.0, None)
    assert no_image.image_text != 0.0
    assert (no_report.missing, no_report.report) == ("report", "")
    assert (no_report.image_text, no_report.text_text) == (0.0, 0.0)


def test_question_without_an_image_or_without_text_scores_the_rest(store, units, pairs) -> None:
    store.upsert(pairs(20), units(20, seed=1), d_text := units(20, seed=2))
    q_text = units(1, seed=3)[0]
    hits = store.query(None, q_text, FusionWeights(1, 1, 2), k=3)
    assert hits[0].score == pytest.approx(2 * float((d_text @ q_text).max()), abs=1e-5)
    assert (hits[0].image_text, hits[0].image_image) == (0.0, 0.0)


def test_weights_that_leave_nothing_to_rank_by_are_refused(store, units, pairs) -> None:
    store.upsert(pairs(2), units(2), units(2))
    with pytest.raises(InputError, match="nothing to rank by"):
        store.query(None, units(1)[0], FusionWeights(1, 1, 0), k=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_question_vector_that_is_not_finite_is_refused(store, units, pairs, value) -> None:
    store.upsert(pairs(2), units(2), units(2))
    bad = units(1)[0].copy()
    bad[2] = value
    with pytest.raises(InputError, match="query image vector holds NaN"):
        store.query(bad, None, FusionWeights(), k=1)


def test_question_vector_of_other_length_or_norm_is_refused(store, units) -> None:
    with pytest.raises(InputError, match="other towers"):
        store.query(units(1, 9)[0], None, FusionWeights(), k=1)
    with pytest.raises(InputError, match="query text vector has length 2"):
        store.query(None, 2 * units(1)[0], FusionWeights(), k=1)
    with pytest.raises(InputError, match="length 0"):
        store.query(np.zeros(8), units(1)[0], FusionWeights(), k=1)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_must_be_a_positive_integer(store, units, k) -> None:
    with pytest.raises(InputError, match="k is"):
        store.query(units(1)[0], None, FusionWeights(), k=k)


def test_empty_store_finds_nothing(store, units) -> None:
    assert store.query(*units(2), FusionWeights(), k=5) == []
    assert len(store) == 0
    assert store.get(["p"]) == {}
    assert store.get([]) == {}


def test_vectors_are_checked_against_the_pairs_before_anything_is_written(
    store, units, pairs
) -> None:
    good = units(3)
    for bad, said in [
        (np.where(np.arange(3)[:, None] == 1, np.nan, good), "'p1': the image vector holds NaN"),
        (np.where(np.arange(3)[:, None] == 1, 3 * good, good), "'p1': the image vector has length"),
        (np.where(np.arange(3)[:, None] == 1, 0 * good, good), "'p1': the image vector has length"),
        (good[:2], "shape"),
        (units(3, 9), "shape"),
    ]:
        with pytest.raises(InputError, match=said):
            store.upsert(pairs(3), bad, good)
    with pytest.raises(InputError, match="lacks that half"):
        store.upsert(pairs(3, image=lambda i: None), good, good)
    with pytest.raises(InputError, match="distinct"):
        store.upsert(pairs(3, pair_id=lambda i: "same"), good, good)
    assert len(store) == 0


def test_upsert_replaces_every_field_of_a_stored_pair(store, units) -> None:
    first = Pair("a.png", "old", "p", "anna", {"study_id": "s1", "label": "x", "view": "PA"})
    store.upsert([first], units(1, seed=1), units(1, seed=2), fingerprints=["f1"])
    second = Pair(None, "new", "p", "bert", {"view": "AP"})
    store.upsert([second], np.zeros((1, 8)), units(1, seed=3), fingerprints=["f2"])
    assert len(store) == 1
    stored = store.get(["p"])["p"]
    assert (stored.report, stored.patient_id, stored.metadata) == ("new", "bert", {"view": "AP"})
    assert (stored.study_id, stored.image_path, stored.missing) == (None, None, "image")
    # Chroma merges metadata: what a `where` filter sees must be gone as well.
    top = store.collection.get(ids=["p"])["metadatas"][0]
    assert not {"study_id", "label", "image_path"} & set(top)
    assert (top["view"], store.stamps(["p"])["p"].fingerprint) == ("AP", "f2")


def test_pair_comes_back_as_it_went_in(store, units) -> None:
    metadata = {"study_id": 7, "doc_id": "mine", "n": 3, "x": 0.5, "ok": True, "s": "é\x00\n"}
    pair = Pair("images/a.png", 'Line one.\n"Quoted" {braces} \ufffd', "p 1/ü", "007", metadata)
    image, text = units(2, seed=1)
    store.upsert([pair], image[None], text[None])
    stored = store.get(["p 1/ü", "unknown"])
    assert list(stored) == ["p 1/ü"]
    back = stored["p 1/ü"]
    assert (back.report, back.patient_id, back.study_id) == (pair.report, "007", "7")
    assert back.metadata == metadata
    assert back.image_path.startswith("/")
    assert back.image_path.endswith("images/a.png")
    np.testing.assert_array_equal(back.image_vector, image)
    np.testing.assert_array_equal(back.text_vector, text)


def test_image_in_memory_is_not_stored_but_is_not_missing(store, units) -> None:
    image = Image.new("RGB", (32, 32))
    store.upsert([Pair(image, "text", "p")], units(1), units(1))
    stored = store.get(["p"])["p"]
    assert (stored.image_path, stored.missing) == (None, None)


def test_more_pairs_than_chroma_takes_at_once_are_stored_at_once(store, units, pairs) -> None:
    count = 6000
    store.upsert(pairs(count, report=lambda i: "r"), units(count), units(count, seed=1))
    assert len(store) == count
    assert len(store.get([f"p{i}" for i in range(count)])) == count
    assert store.pair_ids()[:2] == ["p0", "p1"]


def test_equal_scores_come_in_the_order_of_their_ids(store, units, pairs) -> None:
    same = np.repeat(units(1), 9, axis=0)
    store.upsert(pairs(9, pair_id=lambda i: f"p{8 - i}"), same, same)
    hits = store.query(*units(2, seed=5), FusionWeights(), k=9)
    assert [hit.pair_id for hit in hits] == [f"p{i}" for i in range(9)]


def test_deleted_pairs_are_not_found(store, units, pairs) -> None:
    store.upsert(pairs(5), units(5), units(5))
    store.delete(["p1", "unknown"])
    assert len(store) == 4
    assert "p1" not in {hit.pair_id for hit in store.query(*units(2), FusionWeights(), k=5)}


def test_closed_store_says_so(towers, units) -> None:
    store = PairStore.create("memory", **towers)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.query(*units(2), FusionWeights(), k=1)


def test_weight_beyond_the_range_of_float32_is_refused(store, units, pairs) -> None:
    store.upsert(pairs(2), units(2), units(2))
    with pytest.raises(InputError, match="float32"):
        store.query(*units(2), FusionWeights(1e39, 1, 1), k=1)
