"""What every place for pairs does: the rows of `conftest.PLACES` run all of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.doctor.store_check import verify_store
from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.backends import Where
from mrrag_llamaindex.store.filters import Combination, Comparison
from mrrag_llamaindex.store.hits import Exclusion, Fingerprint
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

WEIGHTS = [
    (1, 1, 1),
    (1, 0, 0),
    (0, 0, 1),
    (0.9, 0.05, 2.2),
    (1, -0.3, 1),
    (-2, -1, -0.5),
    (1, 1, 1, -0.7),
]
SIX_WEIGHTS = [
    (1, 1, 1, 1, 1, 1),
    (0.4, -1.2, 0.7, -0.3, 2, -0.9),
    (0, 0, 0, 0, -1, 0),
    (0, 0, 0, 0, 0, 1),
]
ADULT = Comparison("age", ">=", 18)
FRONTAL = Comparison("view", "in", ("PA", "AP"))

FILTERS = [
    (ADULT, {0, 1, 2}),
    (FRONTAL, {0, 1, 4}),
    (Combination("and", (ADULT, FRONTAL)), {0, 1}),
    (Combination("or", (ADULT, FRONTAL)), {0, 1, 2, 4}),
    (Combination("not", (ADULT, FRONTAL)), {3, 5}),
    (Combination("and", (FRONTAL, Combination("not", (ADULT,)))), {4}),
    (Combination("or", (ADULT, Comparison("view", "!=", "AP"))), {0, 1, 2, 3, 5}),
    (Comparison("view", "!=", "PA"), {1, 2, 3, 4, 5}),
    (Comparison("view", "nin", ("PA", "AP")), {2, 3, 5}),
    (Comparison("age", "<", 18), {3}),
    (Comparison("age", ">", 30.5), {0, 2}),
    (Comparison("age", "<", 54.5), {0, 1, 3}),
    (Comparison("age", ">=", 53.5), {0, 2}),
    (Comparison("age", "==", 54.0), {0}),
    (Comparison("age", "in", (30, 54)), {0}),
    (Comparison("age", "==", "54"), set()),
    (Comparison("age", "<=", "54"), set()),
    (Comparison("date", ">", "2020-06"), {1, 2}),
    (Comparison("urgent", "==", True), {2}),
    (Comparison("urgent", "==", 1), set()),
    (Comparison("doc_id", "==", "mine"), {3}),
    (Comparison("pair_id", "in", ("p1", "p9")), {1}),
    (Comparison("patient_id", "==", "anna"), {0, 1}),
    (Comparison("patient_id", "!=", "anna"), {2, 3, 4, 5}),
    (Comparison("study_id", "==", 7), {0}),
    (Comparison("study_id", "in", ("7", "07")), {0, 1}),
    (Comparison("missing", "==", "report"), {5}),
    (Comparison("no_such_key", "==", 1), set()),
]
"""Each with the numbers of the pairs that match, see below."""


def hand_score(weights, q_image, q_text, d_image, d_text) -> float:
    a, b, c, d = (*weights, 0.0)[:4]
    total = 0.0
    for i in range(len(q_image)):
        total += a * float(q_image[i]) * float(d_text[i])
        total += b * float(q_image[i]) * float(d_image[i])
        total += c * float(q_text[i]) * float(d_text[i])
        total += d * float(q_text[i]) * float(d_image[i])
    return total


def test_a_bad_collection_name_is_refused(place: Where, towers: dict[str, Any]) -> None:
    schema = StoreSchema(**towers)
    for name in ("ab", "a b", "-abc", "abc-", "", "a" * 513, "näme", None):
        for make in (PairStore.create, PairStore.open_or_create):
            with pytest.raises(StoreError, match="collection name"):
                make(place, schema, collection=name)
        with pytest.raises(StoreError, match="collection name"):
            PairStore.open(place, collection=name)


class TestPairStore:
    @pytest.fixture
    def store(self, place: Where, towers: dict[str, Any]) -> Iterator[PairStore]:
        with PairStore.create(
            place, StoreSchema(**towers), collection=f"c{uuid.uuid4().hex}"
        ) as made:
            yield made

    def test_score_of_six_terms_is_the_hand_computed_one(self, place, towers, units, pairs) -> None:
        scales = (1.5, 0.5, 1.0, 2.0, 0.75, 3.0)
        blocks = Blocks(8, 3, 5, scales)
        schema = StoreSchema(**towers, blocks=blocks)
        d_image = np.hstack([units(40, seed=1), units(40, 3, seed=4)])
        d_text = np.hstack([units(40, seed=2), units(40, 5, seed=5)])
        d_image[3] = d_text[4] = 0
        made = pairs(
            40,
            image=lambda i: None if i == 3 else f"{i}.png",
            report=lambda i: None if i == 4 else f"r{i}",
        )
        q_image = np.hstack([units(1, seed=6)[0], units(1, 3, seed=7)[0]])
        q_text = np.hstack([units(1, seed=8)[0], units(1, 5, seed=9)[0]])
        name = f"c{uuid.uuid4().hex}"
        with PairStore.create(place, schema, collection=name) as store:
            store.upsert(made, d_image, d_text)
            assert store.schema.blocks == blocks
            for weights in SIX_WEIGHTS:
                hits = store.query(q_image, q_text, FusionWeights(*weights), k=40)
                assert len(hits) == 40
                for hit in hits:
                    row = int(hit.pair_id[1:])
                    i, ri = d_image[row, :8], d_image[row, 8:]
                    t, rt = d_text[row, :8], d_text[row, 8:]
                    by_hand = [q_image[:8] @ t, q_image[:8] @ i, q_text[:8] @ t, q_text[:8] @ i,
                               q_image[8:] @ ri, q_text[8:] @ rt]  # fmt: skip
                    scaled = np.multiply(scales, by_hand)
                    assert list(hit.terms.values()) == pytest.approx(scaled, abs=1e-6)
                    assert hit.score == pytest.approx(float(np.dot(weights, scaled)), abs=1e-5)
                assert [hit.score for hit in hits] == sorted(
                    (hit.score for hit in hits), reverse=True
                )
                exact = store.score([hits[0].pair_id], q_image, q_text, FusionWeights(*weights))
                assert exact[hits[0].pair_id].score == pytest.approx(hits[0].score, abs=1e-5)
            longer = d_image[:1].copy()
            longer[:, 8:] *= 1.01
            with pytest.raises(InputError, match="raw block has length"):
                store.upsert(made[:1], longer, d_text[:1])
            assert verify_store(store).pairs == 40

    def test_score_is_the_hand_computed_fusion(self, store, units, pairs) -> None:
        d_image, d_text = units(40, seed=1), units(40, seed=2)
        d_image[3] = d_text[4] = 0
        made = pairs(
            40,
            image=lambda i: None if i == 3 else f"{i}.png",
            report=lambda i: None if i == 4 else f"r{i}",
        )
        store.upsert(made, d_image, d_text)
        q_image, q_text = units(2, seed=3)
        for weights in WEIGHTS:
            hits = store.query(q_image, q_text, FusionWeights(*weights), k=40)
            assert len(hits) == 40
            by_hand = {f"p{i}": hand_score(weights, q_image, q_text, d_image[i], d_text[i])
                       for i in range(40)}  # fmt: skip
            for hit in hits:
                assert hit.score == pytest.approx(by_hand[hit.pair_id], abs=1e-5)
                fused = np.dot(weights, list(hit.terms.values())[: len(weights)])
                assert hit.score == pytest.approx(fused, abs=1e-5)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            # The exact scorer, used for other retrievers' results, agrees with the search.
            exact = store.score(
                [hit.pair_id for hit in hits], q_image, q_text, FusionWeights(*weights)
            )
            for hit in hits:
                assert exact[hit.pair_id].score == pytest.approx(hit.score, abs=1e-5)

    def test_missing_halves_are_marked_and_their_terms_are_exactly_zero(
        self, store, units, pairs
    ) -> None:
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

    def test_question_without_an_image_or_without_text_scores_the_rest(
        self, store, units, pairs
    ) -> None:
        store.upsert(pairs(20), units(20, seed=1), d_text := units(20, seed=2))
        q_text = units(1, seed=3)[0]
        hits = store.query(None, q_text, FusionWeights(1, 1, 2), k=3)
        assert hits[0].score == pytest.approx(2 * float((d_text @ q_text).max()), abs=1e-5)
        assert (hits[0].image_text, hits[0].image_image) == (0.0, 0.0)

    def test_question_that_cannot_be_ranked_is_refused(self, store, units, pairs) -> None:
        store.upsert(pairs(2), units(2), units(2))
        image, text = units(2)
        nan, inf = image.copy(), image.copy()
        nan[2], inf[2] = np.nan, np.inf
        for query, weights, k, said in (
            ((None, text), FusionWeights(1, 1, 0), 1, "nothing to rank by"),
            ((nan, None), FusionWeights(), 1, "query image vector holds NaN"),
            ((inf, None), FusionWeights(), 1, "query image vector holds NaN"),
            ((units(1, 9)[0], None), FusionWeights(), 1, "other towers"),
            ((None, 2 * text), FusionWeights(), 1, "query text vector has length 2"),
            ((np.zeros(8), text), FusionWeights(), 1, "length 0"),
            ((image, text), FusionWeights(raw_text=0.5), 1, "'raw_text', which these towers do"),
            ((image, text), FusionWeights(1e39, 1, 1), 1, "float32"),
            *(((image, None), FusionWeights(), k, "k is") for k in (0, -1, 1.5, True)),
        ):
            with pytest.raises(InputError, match=said):
                store.query(*query, weights, k=k)

    def test_empty_store_finds_nothing(self, store, units) -> None:
        assert store.query(*units(2), FusionWeights(), k=5) == []
        assert len(store) == 0
        assert store.get(["p"]) == {}
        assert store.get([]) == {}

    def test_vectors_are_checked_against_the_pairs_before_anything_is_written(
        self, store, units, pairs
    ) -> None:
        good = units(3)
        for bad, said in [
            (
                np.where(np.arange(3)[:, None] == 1, np.nan, good),
                "'p1': the image vector holds NaN",
            ),
            (
                np.where(np.arange(3)[:, None] == 1, 3 * good, good),
                "'p1': the image vector has length",
            ),
            (
                np.where(np.arange(3)[:, None] == 1, 0 * good, good),
                "'p1': the image vector has length",
            ),
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

    def test_pair_comes_back_as_it_went_in(self, store, units) -> None:
        metadata = {"study_id": 7, "doc_id": "mine", "n": 3, "x": 0.5, "ok": True, "s": "é\x01\n"}
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
        np.testing.assert_array_equal(back.vector, np.concatenate([image, text]))

    def test_ten_thousand_metadata_are_kept_or_refused_and_do_no_harm(self, store, units) -> None:
        many = {f"key{i}": i for i in range(10_000)}
        most = {f"other{i}": i for i in range(5_000)}
        store.upsert([Pair("a.png", "r", "p", metadata=most)], units(1), units(1))
        with contextlib.suppress(InputError):
            store.upsert([Pair("a.png", "r", "p", metadata=many)], units(1), units(1))
        assert store.get(["p"])["p"].metadata in (most, many)
        assert len(store) == len(store.query(*units(2), FusionWeights(), 3)) == 1
        store.delete(["p"])
        assert len(store) == 0

    def test_image_in_memory_is_not_stored_but_is_not_missing(self, store, units) -> None:
        image = Image.new("RGB", (32, 32))
        store.upsert([Pair(image, "text", "p")], units(1), units(1))
        stored = store.get(["p"])["p"]
        assert (stored.image_path, stored.missing) == (None, None)

    def test_equal_scores_come_in_the_order_of_their_ids(self, store, units, pairs) -> None:
        same = np.repeat(units(1), 9, axis=0)
        store.upsert(pairs(9, pair_id=lambda i: f"p{8 - i}"), same, same)
        hits = store.query(*units(2, seed=5), FusionWeights(), k=9)
        assert [hit.pair_id for hit in hits] == [f"p{i}" for i in range(9)]

    def test_equal_scores_at_the_end_are_settled_by_their_ids(self, place, towers, units) -> None:
        schema = StoreSchema(**{**towers, "dimension": 64})
        alike = np.repeat(units(1, 64), 63, axis=0)
        image, text = np.vstack([units(40, 64, seed=1), alike]), np.vstack([units(40, 64), alike])
        names = [f"a{i}" for i in range(40)] + [f"p{62 - i:02d}" for i in range(63)]
        question = alike[0], alike[0], FusionWeights()
        with PairStore.create(place, schema, collection=f"c{uuid.uuid4().hex}") as store:
            store.upsert([Pair("i.png", "r", name) for name in names], image, text)
            for k, exclude in ((7, None), (7, Exclusion(pair_ids={"none"})), (60, None)):
                hits = store.query(*question, k, exclude)
                assert [hit.pair_id for hit in hits] == [f"p{i:02d}" for i in range(k)]
                assert len({hit.score for hit in hits}) == 1

    def test_deleted_pairs_are_not_found(self, store, units, pairs) -> None:
        store.upsert(pairs(5), units(5), units(5))
        store.delete(["p1", "unknown"])
        assert len(store) == 4
        assert "p1" not in {hit.pair_id for hit in store.query(*units(2), FusionWeights(), k=5)}

    def test_upsert_replaces_every_field_of_a_stored_pair(self, store, units) -> None:
        first = Pair("a.png", "old", "p", "anna", {"study_id": "s1", "label": "x", "view": "PA"})
        store.upsert([first], units(1, seed=1), units(1, seed=2), fingerprints=["f1"])
        second = Pair(None, "new", "p", "bert", {"view": "AP"})
        store.upsert([second], np.zeros((1, 8)), units(1, seed=3), fingerprints=["f2"])
        assert len(store) == 1
        stored = store.get(["p"])["p"]
        assert (stored.report, stored.patient_id, stored.metadata) == (
            "new",
            "bert",
            {"view": "AP"},
        )
        assert (stored.study_id, stored.image_path, stored.missing) == (None, None, "image")
        assert store.fingerprints(["p"])["p"] == Fingerprint("bert", "f2")
        # What a filter sees is gone as well.
        question = (*units(2, seed=4), FusionWeights(), 1)
        assert store.query(*question, filters=Comparison("label", "==", "x")) == []
        assert store.query(*question, filters=Comparison("study_id", "==", "s1")) == []
        assert len(store.query(*question, filters=Comparison("view", "==", "AP"))) == 1

    @pytest.mark.slow
    def test_excluded_patient_with_thousands_of_closer_pairs_never_appears(
        self, store, units, pairs
    ) -> None:
        others, own = 30, 2000
        q_image, q_text = units(2, seed=9)
        d_image, d_text = units(others + own, seed=1), units(others + own, seed=2)
        # The patient's own pairs are nearly identical to the question: they fill the top 2000.
        d_image[others:] = q_image + 0.01 * d_image[others:]
        d_text[others:] = q_text + 0.01 * d_text[others:]
        for half in (d_image, d_text):
            half /= (half**2).sum(1, keepdims=True) ** 0.5
        names = [f"other{i}" for i in range(others)] + ["anna"] * own
        store.upsert(pairs(others + own, patient_id=lambda i: names[i]), d_image, d_text)
        free = store.query(q_image, q_text, FusionWeights(), k=10)
        assert {hit.patient_id for hit in free} == {"anna"}
        anna = Exclusion(patient_ids={"anna"})
        hits = store.query(q_image, q_text, FusionWeights(), 10, anna)
        assert len(hits) == 10
        # Exactly the ten best of the others, as an exact scan ranks them.
        exact = store.score([f"p{i}" for i in range(others)], q_image, q_text, FusionWeights())
        best = sorted(exact.values(), key=lambda hit: -hit.score)[:10]
        assert [hit.pair_id for hit in hits] == [hit.pair_id for hit in best]
        # Exhaustion: k others do not exist.
        everyone = store.query(q_image, q_text, FusionWeights(), 100, anna)
        assert len(everyone) == others
        assert "anna" not in {hit.patient_id for hit in everyone}

    def test_pair_patient_and_study_are_excluded_together(self, store, units, pairs) -> None:
        made = pairs(
            12,
            patient_id=lambda i: f"patient{i // 3}" if i < 9 else None,
            metadata=lambda i: {"study_id": i // 2},
        )
        store.upsert(made, units(12, seed=1), units(12, seed=2))
        assert store.holds_patient("patient1")
        assert not store.holds_patient("patient")
        exclude = Exclusion(pair_ids={"p0"}, patient_ids={"patient1"}, study_ids={"4"})
        hits = store.query(*units(2, seed=3), FusionWeights(), 12, exclude)
        # p0; p3 p4 p5 (patient 1); p8 p9 (study 4). Pairs of an unknown patient stay.
        assert {hit.pair_id for hit in hits} == {"p1", "p2", "p6", "p7", "p10", "p11"}

    def test_excluding_everything_finds_nothing(self, store, units, pairs) -> None:
        store.upsert(pairs(5), units(5), units(5))
        exclude = Exclusion(pair_ids=[f"p{i}" for i in range(5)])
        assert store.query(*units(2), FusionWeights(), 3, exclude) == []

    def test_filter_returns_what_matches_and_nothing_else(self, store, units) -> None:
        metadata = [
            {"age": 54, "view": "PA", "date": "2020-01-01", "study_id": 7},
            {"age": 30.5, "view": "AP", "date": "2021-01-01", "study_id": "07"},
            {"age": 77, "view": "lateral", "date": "2021-02-01", "urgent": True},
            {"age": 3, "doc_id": "mine"},
            {"view": "AP", "urgent": False},
            {},
        ]
        patients = ["anna", "anna", "bert", "carl", None, "dora"]
        made = [
            Pair("a.png", None if i == 5 else "r", f"p{i}", patients[i], metadata[i])
            for i in range(6)
        ]
        text = units(6, seed=2)
        text[5] = 0
        store.upsert(made, units(6, seed=1), text)
        for where, expected in FILTERS:
            hits = store.query(*units(2, seed=3), FusionWeights(), 6, filters=where)
            assert {hit.pair_id for hit in hits} == {f"p{i}" for i in expected}, where

    def test_filter_and_exclusion_hold_together_however_rare_the_match(
        self, store, units, pairs
    ) -> None:
        made = pairs(
            600,
            metadata=lambda i: {"rare": i % 100 == 7},
            patient_id=lambda i: f"patient{i // 300}",
        )
        store.upsert(made, units(600, seed=1), units(600, seed=2))
        question = (
            *units(2, seed=3),
            FusionWeights(1, -0.5, 2),
            3,
            Exclusion(patient_ids={"patient0"}),
        )
        for where in (
            Comparison("rare", "==", True),
            Combination("not", (Comparison("rare", "==", False),)),
        ):
            hits = store.query(*question, filters=where)
            assert sorted(hit.pair_id for hit in hits) == ["p307", "p407", "p507"]
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    def test_order_of_ids_is_that_of_adding_and_of_get_that_of_asking(
        self, store, units, pairs
    ) -> None:
        store.upsert(pairs(5), units(5), units(5))
        store.upsert(pairs(2), units(2, seed=9), units(2, seed=9))
        assert store.pair_ids() == [f"p{i}" for i in range(5)]
        assert list(store.get(["p3", "p0", "none", "p3", "p1"])) == ["p3", "p0", "p1"]

    def test_bare_string_of_ids_is_refused_rather_than_read_as_letters(
        self, store, units, pairs
    ) -> None:
        store.upsert(pairs(1, pair_id=lambda i: "p"), units(1), units(1))
        for method in (store.get, store.delete, store.fingerprints):
            with pytest.raises(InputError, match="string 'p'"):
                method("p")
        assert len(store) == 1

    def test_what_a_caller_does_with_a_result_does_not_reach_the_store(
        self, store, units, pairs
    ) -> None:
        store.upsert(pairs(1, metadata=lambda i: {"view": "PA"}), units(1), units(1))
        stored = store.get(["p0"])["p0"]
        stored.metadata["view"] = "AP"
        store.query(*units(2), FusionWeights(), 1)[0].metadata["view"] = "AP"
        assert store.get(["p0"])["p0"].metadata == {"view": "PA"}

    def test_more_hits_than_come_complete_at_once_are_complete(self, store, units, pairs) -> None:
        store.upsert(pairs(400), units(400, seed=1), units(400, seed=2))
        hits = store.query(*units(2, seed=3), FusionWeights(), 1000)
        assert len(hits) == 400
        assert all(hit.report == f"report number {hit.pair_id[1:]}" for hit in hits)
        assert all(
            hit.score == pytest.approx(hit.image_text + hit.image_image + hit.text_text, abs=1e-5)
            for hit in hits
        )

    def test_other_towers_are_refused_naming_both(self, store) -> None:
        store.check_towers("toy@1")
        with pytest.raises(StoreError, match=r"'toy@1'.*'clip@2'"):
            store.check_towers("clip@2")

    def test_closed_store_says_so(self, store, units) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.query(*units(2), FusionWeights(), k=1)

    @pytest.mark.slow
    def test_two_writers_and_two_readers_lose_nothing_and_cross_nothing(
        self, store, units, pairs
    ) -> None:
        made = pairs(400, patient_id=lambda i: f"patient{i % 4}")
        image, text = units(400, seed=1), units(400, seed=2)
        store.upsert(made[:20], image[:20], text[:20])

        def writer(start: int) -> None:
            for low in range(start, 400, 40):
                rows = slice(low, low + 20)
                store.upsert(made[rows], image[rows], text[rows])

        def reader(seed: int) -> int:
            seen = 0
            for turn in range(60):
                own = f"patient{turn % 4}"
                q_image, q_text = units(2, seed=1000 * seed + turn)
                exclude = Exclusion(patient_ids={own})
                hits = store.query(q_image, q_text, FusionWeights(1, 0.5, 2), 5, exclude)
                for hit in hits:
                    number = int(hit.pair_id[1:])
                    # Each hit is one whole pair: its patient, its report, its own vectors.
                    assert hit.patient_id == f"patient{number % 4}" != own
                    assert hit.report == f"report number {number}"
                    assert hit.image_image == pytest.approx(
                        float(image[number] @ q_image), abs=1e-5
                    )
                seen += len(hits)
            return seen

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(writer, start) for start in (0, 20)]
            readers = [pool.submit(reader, seed) for seed in (1, 2)]
            for done in writers:
                done.result(timeout=60)
            assert all(done.result(timeout=60) == 300 for done in readers)
        assert len(store) == 400
        assert len(store.get(store.pair_ids())) == 400
