"""Each baseline's formula, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.finding_table import read_findings
from mrrag_llamaindex.evaluation.methods.adaptive_context import GapCut, RatioToFirst
from mrrag_llamaindex.evaluation.methods.calibrated_count import calibrate_count, p_value
from mrrag_llamaindex.evaluation.methods.factual_agreement import (
    AgreementSettings,
    agreeing_pairs,
    learn_agreement,
)
from mrrag_llamaindex.evaluation.methods.ranking import Fused, ImageToText
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.score import FusionWeights
from tests.evaluation.data.hand_set import hand_set, scored_set, unit


def names(documents) -> list[str]:
    return [document.document_id for document in documents]


# A question along (1, 0) with text along (0, 1); each pair is best by another term.
PAIRS = [((0.1, 0), (0.9, 0.0)), ((0.9, 0), (0.2, 0.1)), ((0.2, 0), (0.1, 0.9))]
QUESTION = ((1, 0), (0, 1))


class TestRanking:
    def test_naive_rag_ranks_by_query_image_and_report(self):
        found = ImageToText(2).documents(hand_set(PAIRS, [QUESTION]), 0)
        assert names(found) == ["p0", "p1"]
        assert [d.score for d in found] == pytest.approx([0.9, 0.2])

    def test_fused_score_is_equation_1(self):
        # a, b, c = 1, 2, 3: p0 .9 + .2 + 0, p1 .2 + 1.8 + .3, p2 .1 + .4 + 2.7
        found = Fused(FusionWeights(1, 2, 3), 3).documents(hand_set(PAIRS, [QUESTION]), 0)
        assert names(found) == ["p2", "p1", "p0"]
        assert [d.score for d in found] == pytest.approx([3.2, 2.3, 1.1])

    def test_fused_takes_the_weights_of_each_question(self):
        gate = QueryGatedWeights(
            FusionWeights(1, 1, 1), np.eye(1, 4), np.zeros(1), np.array([[9.0], [0], [-9]]), [0] * 3
        )
        data = hand_set(PAIRS, [QUESTION, ((-1, 0), (0, 1))])
        ranking = Fused(gate, 3)
        for row in (0, 1):
            weights = gate.weights_for(data.q_images[row], data.q_texts[row])
            same = Fused(weights, 3).documents(data, row)
            assert [d.score for d in ranking.documents(data, row)] == [d.score for d in same]
        first, second = ranking.documents(data, 0), ranking.documents(data, 1)
        assert names(first) != names(second)

    def test_other_weights_are_another_ranking_by_name(self):
        one, same, other = (Fused(FusionWeights(1, 2, c), 3) for c in (3, 3, 3.0001))
        assert repr(one) == repr(same) != repr(other)

    def test_equal_scores_keep_the_order_of_the_pairs(self):
        assert names(ImageToText(2).documents(scored_set([0.1, 0.5, 0.5, 0.5]), 0)) == ["p1", "p2"]

    @pytest.mark.parametrize("k", [0, -1, True, 2.0])
    def test_impossible_counts_are_refused(self, k):
        with pytest.raises(ValueError, match="number of documents"):
            ImageToText(k)


class TestOwnEvidence:
    def test_own_pair_study_and_patient_are_left_out(self):
        data = hand_set(
            [((0, 0), (score, 0)) for score in (0.9, 0.8, 0.7, 0.6)],
            [((1, 0), (0, 1))],
            patients=["anna", "berta", None, "carla"],
            studies=[None, "s1", None, None],
            asked=[{"patient_id": "anna", "study_id": "s1", "pair_id": "p2"}],
        )
        assert names(ImageToText(4).documents(data, 0)) == ["p3"]

    def test_the_same_image_under_another_name_is_left_out(self):
        data = hand_set([((1, 0), (0.9, 0)), ((0.99, 0.1), (0.5, 0))], [((1, 0), (0, 1))])
        assert names(ImageToText(4).documents(data, 0)) == ["p1"]


class TestGapCut:
    @pytest.mark.parametrize(
        ("scores", "kept"),
        [
            # log(.9/.8) = .118, log(.8/.5) = .470, log(.5/.4) = .223
            ([0.9, 0.8, 0.5, 0.4], 2),
            ([0.9, 0.8, 0.7, 0.6], 4),
            ([0.9, 0.5, 0.49, 0.48], 1),
            ([0.3, 0.29, 0.0, -0.1], 2),  # the ratio to 0 is unbounded
            ([0.3, 0.29, -0.28], 2),
            ([-0.1, -0.2], 1),
            ([0.5], 1),
        ],
    )
    def test_cut_is_at_the_first_large_drop(self, scores, kept):
        rule = GapCut(gamma=0.4, most=8)
        assert rule.cut(scores) == kept
        assert len(rule.documents(scored_set(scores), 0)) == kept

    def test_a_drop_of_exactly_gamma_is_not_above_it(self):
        gamma = math.log(0.5 / 0.25)
        assert GapCut(gamma=gamma).cut([0.5, 0.25]) == 2

    def test_no_more_than_most_are_read(self):
        assert len(GapCut(gamma=0.4, most=2).documents(scored_set([0.9, 0.8, 0.7]), 0)) == 2


class TestRatioToFirst:
    @pytest.mark.parametrize(
        ("scores", "cut", "published"),
        [
            # .9/.8 = 1.125, .9/.5 = 1.8, .9/.65 = 1.38
            ([0.9, 0.8, 0.65, 0.5], [0, 1, 2], [0, 1, 2]),
            ([0.9, 0.6], [0], [0]),  # exactly 1.5 is not below it
            ([0.9, 0.5, -0.1, -0.2], [0], [0, 2, 3]),  # what the published filter lets in
            ([0.9, 0.0, -0.1], [0], [0, 2]),
            ([-0.1, -0.2], [0], [0, 1]),
            ([0.0, 0.0], [0], []),  # 0 / 0
        ],
    )
    def test_negative_similarities(self, scores, cut, published):
        assert RatioToFirst().passing(scores) == cut
        assert RatioToFirst(negative="keep").passing(scores) == published

    def test_published_filter_equals_tensors(self):
        import torch

        scores = [*np.sort(np.random.default_rng(0).normal(size=40))[::-1].tolist(), 0.0]
        tensor = torch.tensor(sorted(scores, reverse=True), dtype=torch.float64)
        expected = torch.arange(41)[tensor.max() / tensor < 1.5].tolist()[:30]
        assert RatioToFirst(negative="keep", most=30).passing(tensor.tolist()) == expected

    def test_published_filter_looks_at_all_pairs_before_it_takes_the_best(self):
        scores = [0.9, 0.3, 0.2, -0.4]
        rule = RatioToFirst(most=2, negative="keep")
        assert names(rule.documents(scored_set(scores), 0)) == ["p0", "p3"]
        assert names(RatioToFirst(most=2).documents(scored_set(scores), 0)) == ["p0"]


class TestCalibratedCount:
    def test_p_value_is_hoeffding_bentkus(self):
        # Bentkus: e * sum_{i <= 2} C(20, i) .3^i .7^(20 - i); Hoeffding: exp(-20 KL(.1 || .3))
        bentkus = math.e * sum(math.comb(20, i) * 0.3**i * 0.7 ** (20 - i) for i in range(3))
        kl = 0.1 * math.log(0.1 / 0.3) + 0.9 * math.log(0.9 / 0.7)
        assert p_value(0.1, 20, 0.3) == pytest.approx(min(bentkus, math.exp(-20 * kl)))
        assert p_value(0.4, 20, 0.3) == 1.0
        assert p_value(0.0, 20, 0.3) == pytest.approx(0.7**20)

    def test_lowest_risk_among_the_valid_is_chosen(self):
        found = calibrate_count({1: 60, 2: 20, 3: 22, 4: 21}, 200, alpha=0.25)
        assert (found.k, found.valid) == (2, (2, 3, 4))

    def test_equal_risks_take_the_fewest_documents(self):
        assert calibrate_count({1: 80, 2: 20, 3: 20}, 200, alpha=0.25).k == 2

    def test_testing_many_counts_costs_certainty(self):
        # p = .0097 at 36 of 200: below .05 / 1 and .05 / 4, above .05 / 8.
        assert 0.05 / 8 < p_value(36 / 200, 200, 0.25) < 0.05 / 1
        assert calibrate_count({1: 36}, 200, alpha=0.25).valid == (1,)
        assert calibrate_count(dict.fromkeys(range(1, 9), 36), 200, alpha=0.25).valid == ()

    def test_without_a_valid_count_it_says_so(self):
        found = calibrate_count({1: 99, 2: 98}, 200, alpha=0.1)
        assert (found.k, found.valid) == (2, ())
        assert "no number" in str(found)

    def test_the_promised_risk_is_the_smallest_that_can_be_kept(self):
        found = calibrate_count({1: 20, 2: 60}, 200)
        assert found.alpha == 0.2
        assert found.valid == (1,)
        assert p_value(0.1, 200, 0.15) > 0.025 > p_value(0.1, 200, 0.2)

    def test_the_promise_holds(self):
        """Over many calibrations a chosen count breaks its risk in at most 5% of cases."""
        rng = np.random.default_rng(0)
        true = np.array([0.24, 0.26, 0.28])
        broken = 0
        for _ in range(300):
            wrong = {k + 1: int(rng.binomial(150, risk)) for k, risk in enumerate(true)}
            found = calibrate_count(wrong, 150, alpha=0.25)
            broken += any(true[k - 1] > 0.25 for k in found.valid)
        assert broken / 300 <= 0.05

    @pytest.mark.parametrize("wrong", [{}, {1: 11}, {1: -1}])
    def test_impossible_counts_are_refused(self, wrong):
        with pytest.raises(ValueError, match="not possible"):
            calibrate_count(wrong, 10)


FACTS = {
    "p0": {"a": True, "b": False, "c": True},
    "p1": {"a": True, "b": False, "c": True, "d": True},
    "p2": {"a": True, "b": False, "c": False},
    "p3": {"a": True, "b": False, "c": True},
    "p4": {"a": True, "e": False},
}


class TestFactualAgreement:
    def test_positives_are_other_patients_with_equal_labels(self):
        ids = ["p0", "p1", "p2", "p3", "p4"]
        found = agreeing_pairs(ids, ["x", "y", "z", "x", "w"], FACTS, AgreementSettings())
        # p3 is p0's own patient; p2 differs in c; p4 shares one label with the others.
        assert found == {0: (1,), 1: (0, 3), 3: (1,)}

    def test_threshold_lets_in_what_mostly_agrees(self):
        ids = ["p0", "p2"]
        loose = AgreementSettings(threshold=0.6)
        assert agreeing_pairs(ids, ["x", "z"], FACTS, loose) == {0: (1,), 1: (0,)}
        assert agreeing_pairs(ids, ["x", "z"], FACTS, AgreementSettings()) == {}

    def test_most_labels_in_common_come_first(self):
        facts = {**FACTS, "p3": FACTS["p1"]}
        settings = AgreementSettings(positives=1)
        found = agreeing_pairs(["p0", "p1", "p3"], ["x", "y", "z"], facts, settings)
        assert found[1] == (2,)

    def test_unknown_patients_are_neither_anchor_nor_positive(self):
        found = agreeing_pairs(["p0", "p1", "p3"], [None, "y", None], FACTS, AgreementSettings())
        assert found == {}

    @pytest.fixture(scope="class")
    def world(self):
        """Image vectors in which likeness of findings is a small part: the map must find it."""
        rng = np.random.default_rng(0)
        kinds = rng.integers(0, 4, size=80)
        codes = np.eye(4)[kinds]
        noise = rng.normal(size=(80, 8)) * 0.6
        images = [unit([*(0.5 * code), *row]) for code, row in zip(codes, noise, strict=True)]
        noise = rng.normal(size=(80, 8)) * 0.6
        texts = [unit([*(0.5 * code), *row]) for code, row in zip(codes, noise, strict=True)]
        labels = {
            f"p{n}": {"f0": bool(k & 1), "f1": bool(k & 2), "f2": k in (0, 3)}
            for n, k in enumerate(kinds)
        }
        asked = rng.integers(0, 4, size=40)
        vectors = [unit([*(0.5 * np.eye(4)[k]), *(rng.normal(size=8) * 0.6)]) for k in asked]
        data = hand_set(
            list(zip(images, texts, strict=True)), [(v, v) for v in vectors], facts=labels
        )
        return data, kinds, asked

    def test_learned_map_finds_reports_that_agree(self, world):
        data, kinds, asked = world
        learned = learn_agreement(data)

        def share(ranking) -> float:
            places = [int(ranking.documents(data, row)[0].document_id[1:]) for row in range(40)]
            return float(np.mean(kinds[places] == asked))

        assert learned.k == 1
        assert learned.pairs == 80
        assert share(learned) > share(Fused(FusionWeights(1, 1, 0), 1)) + 0.15

    def test_the_same_data_give_the_same_map(self, world):
        one, two = learn_agreement(world[0]), learn_agreement(world[0])
        assert one.digest == two.digest
        assert repr(one) == repr(two)

    def test_without_facts_the_reason_is_said(self):
        with pytest.raises(InputError, match="no finding labels"):
            learn_agreement(hand_set(PAIRS, [QUESTION]))

    def test_without_agreement_the_reason_is_said(self):
        facts = {"p0": {"a": True}, "p1": {"a": True}}
        with pytest.raises(InputError, match="at least 2 labels"):
            learn_agreement(hand_set(PAIRS, [QUESTION], facts=facts))


class TestFindingTable:
    def write(self, folder, text):
        (folder / "labels.csv").write_text(text)
        return folder / "labels.csv"

    def test_uncertain_and_empty_say_nothing(self, tmp_path):
        table = self.write(tmp_path, "pair_id,Edema,Fracture\np1,1.0,\np2,-1,0\nother,1,1\n")
        assert read_findings(table, {"p1", "p2"}) == {
            "p1": {"Edema": True},
            "p2": {"Fracture": False},
        }

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("pair_id,Edema\np1,maybe\n", "row 1: Edema is 'maybe'"),
            ("pair_id,Edema\np1,1\np1,1\n", "row 2: pair 'p1' is there twice"),
            ("id,Edema\np1,1\n", "needs a column pair_id"),
            ("pair_id,Edema\nq,1\n", "none of the 1 pairs"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            read_findings(self.write(tmp_path, text), {"p1"})
