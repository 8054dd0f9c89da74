"""Metrics, intervals and tests against hand arithmetic and independent references."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import comb

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.prediction import Prediction, pool
from mrrag_llamaindex.evaluation.report.mcnemar import Comparison, compare, mcnemar
from mrrag_llamaindex.evaluation.report.metrics import from_confusion, majority, score
from mrrag_llamaindex.statistics.bootstrap import resampled_sums


def answers(pairs, method="m", per_patient=1) -> list[Prediction]:
    return [
        Prediction(method, f"q{n}", f"p{n // per_patient}", gold, text)
        for n, (gold, text) in enumerate(pairs)
    ]


SIX = [("yes", "Yes")] * 3 + [("yes", "No"), ("yes", "?"), ("no", "No")] + [("no", "Yes")] * 2


def test_every_number_by_hand():
    """yes: 3 right of 5 said, of 5 true; no: 1 right of 2 said, of 3 true; 1 of 8 invalid."""
    row = score(answers(SIX))
    assert row.accuracy == pytest.approx(4 / 8)
    assert (row.classes["yes"].precision, row.classes["yes"].recall) == pytest.approx((0.6, 0.6))
    assert (row.classes["no"].precision, row.classes["no"].recall) == pytest.approx((0.5, 1 / 3))
    assert row.positive_f1 == pytest.approx(0.6)
    assert row.macro_f1 == pytest.approx((0.6 + 0.4) / 2)
    assert row.precision == pytest.approx(0.55)
    assert row.recall == pytest.approx((0.6 + 1 / 3) / 2)
    assert row.invalid_rate == pytest.approx(1 / 8)
    assert (row.n, row.patients) == (8, 8)


def test_published_rule_has_no_invalid_answers_and_calls_them_yes():
    row = score(answers(SIX), rule="cares")
    assert row.invalid_rate == 0
    assert row.accuracy == pytest.approx(5 / 8)


def test_resampled_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(0, 4, size=(2, 3))
        counts[0, 0] += 1
        gold = [g for g in (0, 1) for s in range(3) for _ in range(counts[g, s])]
        said = [s for g in (0, 1) for s in range(3) for _ in range(counts[g, s])]
        values = precision_recall_fscore_support(gold, said, labels=[0, 1], zero_division=0)
        found = from_confusion(counts.astype(float))
        assert found["precision"] == pytest.approx(values[0].mean())
        assert found["recall"] == pytest.approx(values[1].mean())
        assert found["macro_f1"] == pytest.approx(values[2].mean())
        assert found["positive_f1"] == pytest.approx(values[2][0])
        assert found["accuracy"] == pytest.approx(np.mean(np.equal(gold, said)))
        assert found["invalid_rate"] == pytest.approx(np.mean(np.equal(said, 2)))


def test_majority_is_of_the_gold_labels():
    found = majority(answers([("no", "Yes")] * 3 + [("yes", "Yes")]))
    assert (found.label, found.accuracy) == ("no", 0.75)
    assert found.macro_f1 == pytest.approx((2 * 3 / (2 * 3 + 1)) / 2)
    always = score(answers([("no", "No")] * 3 + [("yes", "No")]))
    assert always.macro_f1 == pytest.approx(found.macro_f1)


def test_interval_of_independent_questions_is_the_binomial_one():
    rng = random.Random(0)
    made = [("yes", "Yes" if rng.random() < 0.7 else "No") for _ in range(2000)]
    row = score(answers(made), seed=3)
    spread = 1.96 * (row.accuracy * (1 - row.accuracy) / 2000) ** 0.5
    low, high = row.accuracy_ci
    assert low == pytest.approx(row.accuracy - spread, abs=0.003)
    assert high == pytest.approx(row.accuracy + spread, abs=0.003)


def test_questions_of_a_patient_stay_together():
    """Ten identical questions about each patient: the interval of one question each."""
    made = [("yes", "Yes"), ("yes", "No")] * 50
    one = score(answers(made), seed=1).accuracy_ci
    tenfold = [item for item in made for _ in range(10)]
    clustered = score(answers(tenfold, per_patient=10), seed=1).accuracy_ci
    separate = score(answers(tenfold), seed=1).accuracy_ci
    assert clustered == pytest.approx(one)
    assert separate[1] - separate[0] < 0.5 * (one[1] - one[0])


def test_unknown_patients_are_patients_of_their_own():
    made = [replace(item, patient_id=None) for item in answers([("yes", "Yes"), ("no", "Yes")] * 9)]
    assert score(made).patients == 18


def test_single_patient_has_no_interval():
    row = score(answers(SIX, per_patient=99))
    assert set(row.intervals.values()) == {None}


def test_resampling_draws_patients_with_replacement():
    """Two patients of 1 and 10: sums 2, 11, 20 with chances 1/4, 1/2, 1/4."""
    sums = resampled_sums([[1.0], [4.0], [6.0]], ["a", "b", "b"], 0, 8000)[:, 0]
    shares = [float((sums == value).mean()) for value in (2, 11, 20)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    again = resampled_sums([[1.0], [4.0], [6.0]], ["a", "b", "b"], 0, 8000)[:, 0]
    assert np.array_equal(sums, again)
    assert not np.array_equal(sums, resampled_sums([[1.0], [4.0], [6.0]], ["a", "b", "b"], 1, 8000))


def test_a_step_is_said_in_points_as_in_the_table():
    item = Comparison("mcr", "naive-rag", 0.0225, (0.0075, 0.0375), 143, 98, 0.0045, 0.0037)
    assert item.sentence() == (
        "mcr minus naive-rag: +2.2 points [+0.8, +3.8], McNemar p 0.0037 (143 gained, 98 lost)"
    )
    alone = Comparison("a", "b", -0.5, None, 0, 1, 1.0, 0.5)
    assert alone.sentence() == "a minus b: -50.0 points, McNemar p 0.5 (0 gained, 1 lost)"


def test_methods_that_agree_on_ten_patients_may_differ_on_others():
    made = answers([("yes", "Yes"), ("no", "Yes")] * 5)
    found = compare(made, [replace(item, method="b") for item in made])
    unseen = 1.959964**2 / (10 + 1.959964**2)
    assert found.difference == 0.0
    assert found.ci == pytest.approx((-unseen, unseen))
    wrong = [replace(item, text="No" if item.gold == "yes" else "Yes") for item in made]
    right = [replace(item, text=item.gold.title(), method="b") for item in made]
    assert compare(right, wrong).ci == pytest.approx((1 - unseen, 1.0))


def test_mcnemar_equals_the_binomial_sum():
    for gained, lost in [(0, 3), (5, 5), (2, 9), (30, 14), (0, 0), (1, 0)]:
        n, k = gained + lost, min(gained, lost)
        tail = sum(comb(n, i) for i in range(k + 1)) / 2**n
        point = comb(n, k) / 2**n
        exact, mid = mcnemar(gained, lost)
        assert exact == pytest.approx(min(1, 2 * tail))
        assert mid == pytest.approx(min(1, 2 * tail - point))
        assert mcnemar(lost, gained) == pytest.approx((exact, mid))


def test_comparison_counts_and_orders_by_question():
    base = answers([("yes", t) for t in ("Yes", "Yes", "No", "No", "?")], "a")
    mine = answers([("yes", t) for t in ("Yes", "No", "Yes", "Yes", "Yes")], "b")
    found = compare(mine[::-1], base, seed=0)
    assert (found.method, found.baseline) == ("b", "a")
    assert (found.gained, found.lost) == (3, 1)
    assert found.difference == pytest.approx(0.4)
    assert found.ci[0] <= 0.4 <= found.ci[1]


def test_difference_is_paired_and_by_patient():
    rng = random.Random(2)
    base = answers([("yes", rng.choice(["Yes", "No"])) for _ in range(300)], "a", per_patient=3)
    same = [replace(item, method="b") for item in base]
    unseen = 1.959964**2 / (100 + 1.959964**2)  # of 100 patients, not 300 questions
    assert compare(same, base).ci == pytest.approx((-unseen, unseen))
    texts = ["Yes" if n < 30 else item.text for n, item in enumerate(base)]
    better = [replace(i, method="b", text=t) for i, t in zip(base, texts, strict=True)]
    assert compare(better, base).ci[0] > 0


def test_methods_on_different_questions_are_not_compared():
    base, mine = answers(SIX, "a"), answers(SIX, "b")
    with pytest.raises(InputError, match="same questions"):
        compare(mine[1:], base)
    with pytest.raises(InputError, match="gold label or patient"):
        compare([replace(mine[0], gold="no"), *mine[1:]], base)
    with pytest.raises(InputError, match="twice"):
        compare([*mine, mine[0]], base)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no answers"),
        (answers(SIX, "a") + answers(SIX, "b"), "cannot be one row"),
        (answers(SIX) * 2, "twice"),
    ],
)
def test_what_is_not_one_run_is_refused(given, words):
    with pytest.raises(InputError, match=words):
        score(given)


def test_pooled_seeds_have_patients_of_their_own():
    pooled = pool({2: answers(SIX, per_patient=2), 1: answers(SIX, per_patient=2)})
    row = score(pooled)
    assert (row.n, row.patients) == (16, 8)
    assert pooled[0].question_id == "seed1/q0"
    assert row.accuracy == pytest.approx(0.5)
    unknown = pool({1: [replace(item, patient_id=None) for item in answers(SIX)]})
    assert all(one.owner != two.owner for one, two in pairwise(unknown))


def test_all_right_still_has_an_interval():
    """Wilson for 40 of 40 patients: 1 / (1 + 1.96 ** 2 / 40)."""
    row = score(answers([("yes", "Yes"), ("no", "No")] * 40, per_patient=2))
    low, high = row.accuracy_ci
    assert (low, high) == pytest.approx((1 / (1 + 1.959964**2 / 40), 1.0))
    assert row.intervals["invalid_rate"] == pytest.approx((0.0, 1 - low))
