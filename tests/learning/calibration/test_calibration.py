"""Scores as probabilities: hand-computed curves, what is refused, and who is held out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.calibration.data import ScoredQuestion, of_records
from mrrag_llamaindex.learning.calibration.fit import (
    CalibrationSettings,
    fit_calibration,
    isotonic_curve,
)
from mrrag_llamaindex.learning.calibration.quality import brier_gain, measure, reliability
from mrrag_llamaindex.learning.calibration.threshold import held_out_threshold
from mrrag_llamaindex.learning.mining.records import TrainingRecord
from mrrag_llamaindex.learning.mining.support import supporting_documents
from mrrag_llamaindex.mcr.calibration import Calibration, weights_digest
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.statistics.patients import split_by_patient

EQUAL = FusionWeights()


def question(patient: str, scores, right) -> ScoredQuestion:
    return ScoredQuestion(patient, np.array(scores, dtype=float), np.array(right, dtype=bool))


def alike(count: int, scores, right, times: int = 1) -> list[ScoredQuestion]:
    """Patients whose questions are all the same, so that no split changes the curve."""
    return [question(f"p{n}", scores, right) for n in range(count) for _ in range(times)]


def drawn(seed: int, patients: int = 60, documents: int = 10) -> list[ScoredQuestion]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(patients):
        scores = -np.sort(-rng.normal(size=documents))
        made.append(
            question(f"p{number}", scores, rng.random(documents) < 1 / (1 + np.exp(-scores)))
        )
    return made


def fitted(questions, **settings):
    return fit_calibration(
        questions,
        towers_identity="towers@1",
        weights=EQUAL,
        settings=CalibrationSettings(**settings),
    )


def test_isotonic_pools_the_violators():
    """Shares 0, 1, 0, 1 by score pool to 0, 1/2, 1/2, 1; 20 documents bound the ends by 1/22."""
    made = fitted(alike(40, [4, 3, 2, 1], [1, 0, 1, 0])).calibration
    low, high = 1 / 22, 21 / 22
    expected = [low, low, (low + 0.5) / 2, 0.5, 0.5, (high + 0.5) / 2, high, high]
    assert made.probability([0, 1, 1.5, 2, 3, 3.5, 4, 9]) == pytest.approx(expected)


def test_a_few_documents_at_an_end_promise_nothing():
    """One right document above all others, as if it could never be wrong: pooled with the next.

    Score 3: 30 of 40 support; 2: 20 of 40; 1: 10 of 40; and 5 once, at 4.
    """
    shares = [(3, 30), (2, 20), (1, 10)]
    scores = np.concatenate([[5.0] * 4, *([float(score)] * 40 for score, _ in shares)])
    right = np.concatenate([[True] * 4, *(np.arange(40) < count for _, count in shares)])
    curve = isotonic_curve(scores, right)
    top = (34 + 1) / (44 + 2)
    assert curve[-1] == (5.0, pytest.approx(top))
    assert dict(curve)[3.0] == pytest.approx(top)
    assert dict(curve)[2.0] == pytest.approx(0.5)
    assert dict(curve)[1.0] == pytest.approx(11 / 42)
    # Ten of them are enough to stand alone, and still promise what ten can show.
    many = isotonic_curve(np.concatenate([[5.0] * 6, scores]), np.concatenate([[True] * 6, right]))
    assert many[-1] == (5.0, pytest.approx(11 / 12))
    assert dict(many)[3.0] == pytest.approx(0.75)


def test_ends_stay_on_their_side_of_their_neighbours():
    """Ten with nine right are drawn to 10/12, below the .88 of their neighbours: kept at .88."""
    scores = np.concatenate([np.full(10, 3.0), np.full(100, 2.0), np.full(50, 1.0)])
    right = np.concatenate([np.arange(10) < 9, np.arange(100) < 88, np.arange(50) < 10])
    values = [share for _, share in isotonic_curve(scores, right)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.88)


def test_a_curve_of_one_block_is_refused():
    with pytest.raises(InputError, match="says nothing"):
        isotonic_curve(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))


def test_a_curve_no_better_than_the_base_rate_is_refused():
    """The scores of those held out say the opposite of what was fitted."""
    asked = split(([1, 0], [1, 0]), ([1, 0], [0, 1]), 80)
    for method in ("isotonic", "platt"):
        with pytest.raises(InputError, match=r"not shown to be better.*0\.25"):
            fitted(asked, method=method)
        found = fit_calibration(
            asked,
            towers_identity="towers@1",
            weights=EQUAL,
            settings=CalibrationSettings(method=method),
            force=True,
        )
        assert found.gain < 0
        assert found.gain_ci[0] < 1e-9 + found.gain


def test_reliability_by_hand():
    """Two promises, .2 to four documents of which one happened, .8 to four of which all did."""
    promised = np.array([0.2] * 4 + [0.8] * 4)
    happened = np.array([True, False, False, False, True, True, True, True])
    low, high = reliability(promised, happened, list("abcdefgh"))
    assert (low.low, low.high, low.documents) == (0.2, 0.2, 4)
    assert (low.promised, low.happened) == (pytest.approx(0.2), 0.25)
    assert low.ci[0] <= 0.25 <= low.ci[1]
    assert (high.promised, high.happened) == (pytest.approx(0.8), 1.0)
    assert high.ci[0] < 0.6  # four patients do not show that it always happens
    assert high.ci[1] == 1.0


def test_the_gain_is_measured_on_the_same_documents():
    happened = np.array([True, False, True, True])
    names = list("abcd")
    gain, ends = brier_gain(np.array([0.9, 0.1, 0.9, 0.9]), np.full(4, 0.75), happened, names)
    base = measure(np.full(4, 0.75), happened, names).brier
    assert gain == pytest.approx(base - 0.01)
    assert ends[0] <= gain <= ends[1]


def test_platt_meets_the_smoothed_shares_of_two_scores():
    """12 documents, 6 supporting: targets 7/8 and 1/8, so 15/24 at score 1 and 9/24 at 0."""
    made = fitted(alike(4, [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]), method="platt").calibration
    assert made.probability([1, 0]) == pytest.approx([0.625, 0.375], abs=1e-5)
    assert made.curve[0] == pytest.approx((2 * math.log(5 / 3), math.log(3 / 5)), abs=1e-4)
    assert made.probability([-1e4, 1e4]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_higher_score_never_has_a_lower_probability(method):
    for seed in range(5):
        made = fitted(drawn(seed), method=method).calibration
        values = made.probability(np.linspace(-5, 5, 1001))
        assert (np.diff(values) >= 0).all()
        assert values[0] < values[-1]
        assert 0 < values.min() <= values.max() < 1


def test_numpy_evaluation_is_that_of_scikit_learn():
    from sklearn.isotonic import IsotonicRegression

    questions = drawn(3)
    made = fitted(questions).calibration
    fit = [item for item in questions if item.patient_id in _fit_patients(questions)]
    scores = np.concatenate([item.scores for item in fit])
    right = np.concatenate([item.right for item in fit])
    least = 1 / (len(scores) + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    model.fit(scores, right)
    inner = [score for score, _ in made.curve[2:-2]]
    grid = np.linspace(inner[0], inner[-1], 500)  # between the ends, which are pooled
    assert made.probability(grid) == pytest.approx(model.predict(grid), abs=1e-9)


def _fit_patients(questions) -> set[str]:
    names = [item.patient_id for item in questions]
    return {names[place] for place in split_by_patient(names, 0.5, 0)[0]}


def test_quality_by_hand():
    """Bins .1 and .9: shares 1/2 and 1, so the error is (2 * .4 + 2 * .1) / 4."""
    happened = np.array([False, True, True, True])
    found = measure(np.array([0.1, 0.1, 0.9, 0.9]), happened, ["a", "b", "c", "d"])
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert found.log_loss == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)
    assert found.ece == pytest.approx(0.25)
    assert found.ci["brier"][0] < found.brier < found.ci["brier"][1]


def test_errors_of_two_bins_do_not_cancel():
    """Half of each bin happened: .3 too low in one, .3 too high in the other."""
    happened = np.array([True, False, True, False])
    found = measure(np.array([0.2, 0.2, 0.8, 0.8]), happened, list("abcd"))
    assert found.ece == pytest.approx(0.3)


def test_intervals_count_patients_and_not_documents():
    rng = np.random.default_rng(0)
    probability = rng.random(40)
    happened = rng.random(40) < probability
    once = measure(probability, happened, [str(n) for n in range(40)])
    names = [str(n) for n in range(40)] * 25
    copied = measure(np.tile(probability, 25), np.tile(happened, 25), names)
    assert copied.ci["brier"] == pytest.approx(once.ci["brier"])
    apart = measure(np.tile(probability, 25), np.tile(happened, 25), [str(n) for n in range(1000)])
    assert np.ptp(apart.ci["brier"]) < np.ptp(copied.ci["brier"]) / 3


def test_calibration_beats_the_base_rate_on_other_patients():
    for method in ("isotonic", "platt"):
        found = fitted(drawn(1, patients=200), method=method)
        assert found.quality.ci["brier"][1] < found.base_rate.ci["brier"][0]
        assert found.quality.ece < 0.1


def split(fit, held, count: int = 8) -> list[ScoredQuestion]:
    """Patients of whom those that are fitted on have other scores than those held out."""
    names = [f"p{n}" for n in range(count)]
    kept = set(split_by_patient(names, 0.5, 0)[0])
    return [question(name, *(fit if n in kept else held)) for n, name in enumerate(names)]


def test_quality_is_that_of_the_patients_held_out():
    """Fitted: 11/12 and 1/12, a base rate of 1/2. Held out: 11/12 thrice, one wrong, and 1/12."""
    found = fitted(split(([1, 0], [1, 0]), ([1, 1, 1, 0], [1, 1, 0, 0]), 20))
    assert found.quality.brier == pytest.approx((3 * 1 + 121) / 144 / 4)
    assert found.base_rate.brier == pytest.approx(0.25)
    assert (found.documents, found.questions, found.patients) == (40, 10, 10)


def test_a_tie_of_a_wrong_best_document_is_an_error_of_the_threshold():
    held = ([1, 1, 0], [1, 0, 0])
    asked = split(([1, 0], [1, 0]), held, 160)
    forced = fit_calibration(asked, towers_identity="towers@1", weights=EQUAL, force=True)
    assert forced.calibration.abstention is None
    right = ([1, 1, 0], [1, 1, 0])
    assert fitted(split(([1, 0], [1, 0]), right, 160)).calibration.abstention is not None


def test_thresholds_to_try_come_from_the_patients_fitted_on():
    """Half of 400 are right and score 3, the others are wrong and score 1; fitted on: 2 and 0."""
    curve = Calibration("platt", ((1.0, 0.0),), "towers@1", "w")
    fit = [question(f"f{n}", [2 * (n % 2), -1], [n % 2, 0]) for n in range(400)]
    held = [question(f"h{n}", [1 + 2 * (n % 2), -1], [n % 2, 0]) for n in range(400)]
    found, _, _ = held_out_threshold(curve, fit, held, error_rate=0.1, confidence=0.95, seed=0)
    assert found.threshold == pytest.approx(1 / (1 + math.exp(-2)))
    assert (found.answered, found.errors) == (200, 0)


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        (alike(3, [2, 1], [1, 0]), "at least four patients"),
        (alike(9, [2, 1], [1, 1]), "all support"),
        (alike(9, [2, 1], [0, 0]), "none support"),
        (alike(9, [2, 1], [0, 1]), "says nothing"),
        (alike(9, [2, 2], [0, 1]), "says nothing"),
    ],
)
@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_what_cannot_be_calibrated_is_refused(questions, words, method):
    with pytest.raises(InputError, match=words):
        fitted(questions, method=method)


def test_a_file_gives_the_same_probabilities(tmp_path):
    made = fitted(drawn(2, patients=200), error_rate=0.5).calibration
    assert made.abstention is not None
    made.save(tmp_path / "c.json")
    read = Calibration.load(tmp_path / "c.json")
    assert read == made
    grid = np.linspace(-3, 3, 50)
    assert (read.probability(grid) == made.probability(grid)).all()


def test_other_towers_and_other_weights_are_refused_by_name():
    made = fitted(drawn(2)).calibration
    made.check("towers@1", FusionWeights(1, 1, 1))
    with pytest.raises(InputError, match=r"'towers@1'.*'towers@2'"):
        made.check("towers@2", EQUAL)
    for other in (FusionWeights(1, 1, 1.001), FusionWeights(1, 1, 1, 0.5)):
        with pytest.raises(InputError, match=f"{weights_digest(EQUAL)}.*{weights_digest(other)}"):
            made.check("towers@1", other)


def test_digest_depends_on_the_numbers_alone():
    gate = QueryGatedWeights.untrained(EQUAL, 3)
    moved = QueryGatedWeights(EQUAL, np.zeros((1, 6)), [0.0], np.zeros((3, 1)), [0.0, 0.0, 0.5])
    assert weights_digest(FusionWeights(1, 1, 1, 0.0)) == weights_digest(EQUAL)
    assert len({weights_digest(item) for item in (EQUAL, gate, moved)}) == 3


ABSTENTION = {"threshold": 0.5, "error_rate": 0.1, "confidence": 0.9, "answered": 5, "errors": 1,
              "questions": 9}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"curve": [[1.0, 0.5], [0.0, 0.9]]},
        {"curve": [[0.0, 0.9], [1.0, 0.5]]},
        {"curve": [[0.0, 0.5], [1.0, 1.5]]},
        {"curve": "no"},
        {"method": "spline"},
        {"abstention": {"threshold": 2}},
        {"more": 1},
        {"curve": [["0.0", 0.5], [1.0, 0.9]]},
        {"curve": [[0.0, False], [1.0, True]]},
        {"weights": None},
        {"about": []},
        {"about": {"a": math.nan}},
        {"abstention": ABSTENTION | {"answered": 5.5}},
        {"abstention": ABSTENTION | {"errors": True}},
        {"abstention": ABSTENTION | {"threshold": True}},
        {"abstention": ABSTENTION | {"threshold": "0.4"}},
        {"abstention": ABSTENTION | {"error_rate": "0.1"}},
    ],
)
def test_a_file_that_is_no_calibration_is_refused(change):
    data = json.loads(fitted(drawn(2)).calibration.to_json())
    with pytest.raises(InputError, match="calibration"):
        Calibration.from_json(json.dumps({**data, **change}))


def test_scores_that_are_no_numbers_are_refused():
    made = fitted(drawn(2)).calibration
    with pytest.raises(InputError, match="finite"):
        made.probability([0.0, math.nan])


def test_many_questions_of_few_patients_show_nothing():
    """20 held-out patients without an error are too few, however often each was asked."""
    few = fitted(alike(40, [2, 1], [1, 0], times=20))
    assert few.questions == 400
    assert few.calibration.abstention is None
    assert "29 answered patients" in few.why_not
    enough = fitted(alike(160, [2, 1], [1, 0], times=2)).calibration.abstention
    assert enough is not None
    assert (enough.questions, enough.errors, enough.coverage) == (80, 0, 1.0)


def test_an_unreachable_rate_is_said_and_not_guessed():
    found = fitted(drawn(4, patients=200), error_rate=0.01)
    assert found.calibration.abstention is None
    assert found.as_dict()["abstention"] is None
    assert "no threshold keeps an error rate of 0.01" in found.why_not


def test_threshold_leaves_out_the_questions_that_would_be_wrong():
    rng = np.random.default_rng(0)
    made = []
    for number in range(300):
        good = rng.random() < 0.5
        top = rng.uniform(0.6, 1) if good else rng.uniform(0, 0.6)
        made.append(question(f"p{number}", [top, top - 1], [good, False]))
    found = fitted(made).calibration
    assert found.abstention is not None
    assert 0.3 < found.abstention.coverage < 0.65
    low, high = fitted(made).coverage_ci
    assert low < found.abstention.coverage < high
    assert found.probability([0.3])[0] < found.abstention.threshold <= found.probability([0.95])[0]


def record(confidence, unaided, terms=None, **more) -> TrainingRecord:
    count = len(confidence)
    return TrainingRecord(
        question_id="q1",
        patient_id=more.pop("patient_id", "p1"),
        terms=tuple(terms or ((0.1, 0.2, 0.3),) * count),
        terms_text_image=(0.0,) * count,
        pair_ids=tuple(f"d{n}" for n in range(count)),
        confidence=tuple(confidence),
        positive=0,
        negatives=(),
        unaided=unaided,
        **more,
    )


@pytest.mark.parametrize(
    ("unaided", "rule", "expected"),
    [
        (0.3, "helps", [1, 1, 1, 0]),
        (0.3, "right", [1, 1, 0, 0]),
        (0.3, "helps_right", [1, 1, 0, 0]),
        (0.7, "helps", [1, 0, 0, 0]),
        (0.7, "right", [1, 1, 0, 0]),
        (0.7, "helps_right", [1, 0, 0, 0]),
    ],
)
def test_rules_of_support_for_yes_and_no(unaided, rule, expected):
    item = record([0.9, 0.6, 0.4, 0.1], unaided)
    assert supporting_documents(item, rule).tolist() == [bool(value) for value in expected]


def test_as_good_as_without_or_undecided_is_no_support():
    item = record([0.5, 0.3, 0.51], 0.3)
    assert supporting_documents(item, "helps").tolist() == [True, False, True]
    assert supporting_documents(item, "right").tolist() == [False, False, True]


def test_open_answers_have_no_line_between_right_and_wrong():
    item = record([-0.2, -0.9], -0.5)
    assert (
        supporting_documents(item).tolist()
        == supporting_documents(item, "helps").tolist()
        == [True, False]
    )
    with pytest.raises(InputError, match="open answer"):
        supporting_documents(item, "right")


def test_what_a_rule_needs_is_asked_for():
    item = record([0.9, 0.1], None)
    assert supporting_documents(item, "right").tolist() == [True, False]
    with pytest.raises(InputError, match="without documents"):
        supporting_documents(item)
    with pytest.raises(ValueError, match="helps_right, helps, right"):
        supporting_documents(item, "other")


def test_records_are_ranked_by_the_weights_and_cut_at_the_depth():
    terms = ((0.1, 0.9, 0.0), (0.8, 0.1, 0.0), (0.2, 0.3, 0.0))
    item = record([0.9, 0.1, 0.8], 0.5, terms, patient_id=None)
    (found,) = of_records([item], FusionWeights(1, 0, 0), depth=2)
    assert found.scores == pytest.approx([0.8, 0.2])
    assert found.right.tolist() == [False, True]
    assert found.patient_id == "question:q1"


def test_weights_for_each_question_need_its_vectors():
    gate = QueryGatedWeights.untrained(EQUAL, 3)
    with pytest.raises(InputError, match="mine the records again"):
        of_records([record([0.9, 0.1], 0.5)], gate)


def test_equally_good_best_documents_must_all_support():
    assert question("p", [2, 2, 1], [1, 1, 0]).best_is_right
    assert not question("p", [2, 2, 1], [1, 0, 1]).best_is_right
