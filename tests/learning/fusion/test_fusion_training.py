"""InfoNCE over three cached similarities, and the comparison on held-out patients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.comparison import PooledComparison, learn_and_compare
from mrrag_llamaindex.learning.fusion.examples import FusionExample
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.fusion.recall_table import RecallTable
from mrrag_llamaindex.learning.fusion.training import FusionSettings, infonce, train_fusion
from mrrag_llamaindex.learning.mining.records import TrainingRecord
from mrrag_llamaindex.mcr.weights import ALL_TERMS, HEAD_TERMS, FusionWeights
from mrrag_llamaindex.statistics.patients import split_by_patient


def example(positive, negatives, patient="p"):
    return FusionExample(patient, np.array(positive, float), np.array(negatives, float))


def test_loss_and_gradient_of_one_negative_by_hand():
    # s_+ = 2, s_- = 0 at weights (1, 1, 1); temperature 2: logits 1 and 0.
    one = example([1.0, 1.0, 0.0], [[0.0, -1.0, 1.0]])
    loss, gradient = infonce(np.ones(3), [one], 2.0)
    wrong = 1 / (1 + math.e)
    assert loss == pytest.approx(math.log(1 + math.exp(-1)))
    # (E_p[t] - t_+) / tau = wrong * (t_- - t_+) / 2, with t_- - t_+ = (-1, -2, 1)
    assert gradient == pytest.approx([-wrong / 2, -wrong, wrong / 2])


def test_loss_and_gradient_of_four_terms_by_hand():
    # s_+ = .5*2 = 1, s_- = 0; temperature 1. t_- - t_+ = (0, 0, 0, -2), wrong = 1 / (1 + e)
    one = example([0.0, 0.0, 0.0, 2.0], [[0.0, 0.0, 0.0, 0.0]])
    loss, gradient = infonce(np.array([1.0, 1.0, 1.0, 0.5]), [one], 1.0)
    assert loss == pytest.approx(math.log(1 + math.exp(-1)))
    assert gradient == pytest.approx([0, 0, 0, -2 / (1 + math.e)])
    # With three weights the fourth column is not looked at: both score 0.
    assert infonce(np.ones(3), [one], 1.0)[0] == pytest.approx(math.log(2))


def test_any_of_several_positives_counts_by_hand():
    # Scores: positives ln 2 and 0, negative ln 3: L = -log((2 + 1) / (2 + 1 + 3)) = ln 2.
    # E over all of t_1: (2 ln 2 + 0 + 3 ln 3) / 6; over the positives: (2 ln 2 + 0) / 3.
    two, three = math.log(2), math.log(3)
    one = example([[two, 0, 0], [0.0, 0, 0]], [[three, 0, 0]])
    loss, gradient = infonce(np.ones(3), [one], 1.0)
    assert loss == pytest.approx(two)
    assert gradient == pytest.approx([(2 * two + 3 * three) / 6 - 2 * two / 3, 0, 0])


@pytest.mark.parametrize("terms", [3, 4])
def test_gradient_is_the_slope_of_the_loss(terms):
    rng = np.random.default_rng(1)
    some = [
        example(rng.normal(size=(p, terms)), rng.normal(size=(m, terms)))
        for p, m in ((1, 3), (4, 1), (2, 6))
    ]
    weights, step = rng.normal(size=terms), 1e-6
    _, gradient = infonce(weights, some, 0.3)
    for place, row in enumerate(np.eye(terms) * step):
        higher, lower = (infonce(weights + sign * row, some, 0.3)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((higher - lower) / (2 * step), abs=1e-6)


@pytest.mark.parametrize(
    ("positive", "negatives"),
    [
        ([1.0, 0.0], [[0.0, 1.0]]),
        ([1.0, 0.0, 0.0], [[0.0, 1.0, 0.0, 0.0]]),
        ([1.0, 0.0, 0.0], np.zeros((0, 3))),
        (np.zeros((0, 3)), [[0.0, 1.0, 0.0]]),
    ],
)
def test_example_without_positive_negative_or_fitting_shapes_is_refused(positive, negatives):
    with pytest.raises(InputError, match="a training example"):
        example(positive, negatives)


def test_padding_of_fewer_negatives_counts_for_nothing():
    short = example([0.2, 0.1, 0.0], [[-0.5, -0.1, -0.3]])
    long = example([0.1, 0.0, 0.4], [[0.0, 0.3, 0.1], [0.2, 0.2, 0.2], [-0.1, 0.5, 0.0]])
    weights = np.array([0.3, -1.2, 0.7])
    apart = [infonce(weights, [item], 0.1) for item in (short, long)]
    loss, gradient = infonce(weights, [short, long], 0.1)
    assert loss == pytest.approx((apart[0][0] + apart[1][0]) / 2)
    assert gradient == pytest.approx((apart[0][1] + apart[1][1]) / 2)


def drawn(count, signal, seed=0, width=3):
    """Questions of one patient each, whose right candidate stands out in the term `signal`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        terms = rng.normal(0, 0.3, (10, width))
        terms[0, signal] += 0.6
        made = example(terms[0], terms[1:], f"p{number}")
        found.append(FusionQuestion(f"p{number}", terms, np.arange(10) == 0, made))
    return found


def test_what_is_measured_was_neither_learned_from_nor_validated_on():
    """Held-out patients whose right candidate is the worst by every term: nothing finds it."""
    asked = drawn(60, 1)
    rest, held = split_by_patient([item.patient_id for item in asked], 0.5, 0)
    for place in held:
        right = np.argmin(asked[place].terms[:, 1]) == np.arange(10)
        terms = np.where(right[:, None], -9.0, asked[place].terms)
        made = example(terms[right][0], terms[~right], asked[place].patient_id)
        asked[place] = FusionQuestion(asked[place].patient_id, terms, right, made)
    found = learn_and_compare(asked)
    assert found.patients == tuple(asked[place].patient_id for place in held)
    assert found.hits["learned"].tolist() == [0.0] * 30
    examples = [asked[place].example for place in rest]
    parts = split_by_patient([item.patient_id for item in examples], 0.25, 0)
    fit, check = ([examples[place] for place in part] for part in parts)
    assert found.learned == train_fusion(fit, check)


def test_the_share_of_a_term_counts_how_much_it_varies():
    """Three terms that tell alike, but the last in tenths: its weight is no share by itself."""
    asked = [
        FusionQuestion(item.patient_id, item.terms * [1, 1, 0.1], item.right, item.example)
        for item in drawn(60, 0)
    ]
    found = learn_and_compare(asked)
    held = [item for item in asked if item.patient_id in set(found.patients)]
    spread = np.mean([item.terms.std(axis=0) for item in held], axis=0)
    parts = np.abs(found.learned.weights.as_array()) * spread
    assert list(found.shares.values()) == pytest.approx(parts / parts.sum())
    assert found.table.best_single == max(HEAD_TERMS[:3], key=found.table.recall.__getitem__)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_learned_weights_are_compared_with_the_term_that_does_best(best):
    hits = {name: np.zeros(4) for name in HEAD_TERMS[:3]}
    hits[HEAD_TERMS[best]][:3] = 1
    table = RecallTable.of({**hits, "equal": np.zeros(4), "learned": np.ones(4)}, list("abcd"), 0)
    assert table.best_single == HEAD_TERMS[best]
    assert set(table.ci) >= {f"learned-{HEAD_TERMS[best]}", "learned-equal"}


def test_two_steps_of_adam_by_hand():
    """A gradient that hardly changes: each step is the learning rate, against its sign."""
    one = [example([1.0, -1.0, 0.5], [[0.0, 0.0, 0.5]])]
    for steps in (1, 2):
        settings = FusionSettings(temperature=100.0, epochs=steps, prior=math.inf)
        made = train_fusion(one, one, settings)
        assert made.weights.as_array() == pytest.approx(
            [1 + 0.01 * steps, 1 - 0.01 * steps, 1], abs=1e-5
        )
        assert made.epoch == steps


@pytest.mark.slow
def test_prior_holds_few_examples_near_equal_weights_and_many_do_not_feel_it():
    """Where loss and prior pull alike: d loss = -(w - 1) / (prior^2 n)."""
    one = [example([0.3, 0.0, 0.0], [[0.0, 0.0, 0.0]])]
    settings = FusionSettings(temperature=0.1, epochs=5000, patience=5000, prior=0.5)
    weight = train_fusion(one, one, settings).weights.image_text
    by_hand = 1.0324  # solves 3 / (1 + exp(3 w)) = (w - 1) / 0.25
    assert 3 / (1 + math.exp(3 * by_hand)) == pytest.approx((by_hand - 1) / 0.25, abs=1e-3)
    assert by_hand <= weight < by_hand + 0.03  # Adam's momentum takes it a little further
    many = train_fusion(one * 400, one, settings).weights.image_text
    assert many > 1.5
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="prior must be positive"):
            FusionSettings(prior=bad)


def test_six_terms_are_learned_from_equal_ones_and_the_raw_one_that_tells_wins():
    made = learn_and_compare(drawn(300, 5, width=6))
    assert made.terms == ALL_TERMS
    assert np.argmax(made.learned.weights.as_array(ALL_TERMS)) == 5
    assert set(made.hits) == {"chance", *ALL_TERMS, "equal", "learned"}
    assert made.table.best_single == "raw_text"
    assert made.table.ci["learned-equal"][0] > 0
    assert set(made.as_dict()["weights"]) == set(ALL_TERMS)


def test_recall_is_that_of_the_validation_and_a_tie_is_no_success():
    first = example([1.0, 0.0, 0.0], [[0.0, 0.0, 0.0]])
    tied = example([0.0, 0.0, 0.0], [[0.0, 0.0, 0.0]])
    last = example([0.0, 0.0, 0.0], [[1.0, 0.0, 0.0]])
    settings = FusionSettings(epochs=1)
    assert train_fusion([first], [first, tied, last], settings).validation_recall == 1 / 3


@pytest.mark.parametrize("signal", [0, 1, 2])
def test_the_weights_follow_the_term_that_carries_the_signal(signal):
    made = learn_and_compare(drawn(300, signal))
    weights = made.learned.weights.as_array()
    assert np.argmax(weights) == signal
    assert weights[signal] > 3 * np.delete(np.abs(weights), signal).max()
    assert made.table.ci["learned-equal"][0] > 0
    assert max(made.shares, key=made.shares.get) == HEAD_TERMS[signal]
    assert sum(made.shares.values()) == pytest.approx(1)


@pytest.mark.slow
def test_fourth_weight_earns_its_place_only_where_it_carries_the_signal():
    helpful = learn_and_compare(drawn(300, 3, width=4))
    assert np.argmax(helpful.four_terms.weights.as_array(HEAD_TERMS)) == 3
    found = helpful.as_dict()["four_terms"]
    assert (found["verdict"], found["minus_learned"] > 0.2) == ("more than noise", True)
    useless = learn_and_compare(drawn(300, 0, width=4)).as_dict()["four_terms"]
    assert useless["verdict"] == "not more than noise"
    low, high = useless["minus_learned_ci"]
    assert low <= 0 <= high
    assert learn_and_compare(drawn(60, 0)).four_terms is None
    with pytest.raises(
        InputError, match=r"lack the similarities text_image: learn 3 terms \(--terms 3\)"
    ):
        learn_and_compare(drawn(60, 0), gate_terms=HEAD_TERMS)


@pytest.mark.slow
def test_three_weights_do_not_depend_on_whether_the_fourth_term_is_known():
    four = drawn(60, 1, width=4)
    three = [
        FusionQuestion(
            item.patient_id,
            item.terms[:, :3],
            item.right,
            example(item.example.positive[:3], item.example.negatives[:, :3], item.patient_id),
        )
        for item in four
    ]
    one, other = learn_and_compare(four), learn_and_compare(three)
    assert one.learned.weights == other.learned.weights
    assert np.array_equal(one.hits["learned"], other.hits["learned"])


def test_training_stops_at_the_least_validation_loss():
    few = [item.example for item in drawn(6, 1)]  # so few that their weights would grow and grow
    held = [item.example for item in drawn(40, 1, seed=1)]
    made = train_fusion(few, held)
    assert 0 < made.epoch < 1000
    assert made.loss == pytest.approx(infonce(made.weights.as_array(), held, 0.07)[0])
    for epochs in (made.epoch - 1, made.epoch + 20):
        other = train_fusion(few, held, FusionSettings(epochs=epochs, patience=epochs))
        assert other.loss > made.loss if epochs < made.epoch else other.loss == made.loss
    assert made.loss < infonce(np.ones(3), held, 0.07)[0]


def test_a_learned_temperature_is_a_scale_and_changes_no_ranking():
    examples = [item.example for item in drawn(80, 1)]
    fixed = train_fusion(examples[:60], examples[60:])
    free = train_fusion(examples[:60], examples[60:], FusionSettings(learn_temperature=True))
    assert np.linalg.norm(free.weights.as_array()) == pytest.approx(math.sqrt(3))
    assert free.weights.as_array() / free.temperature == pytest.approx(
        fixed.weights.as_array() / fixed.temperature
    )


def test_no_patient_is_on_both_sides_and_the_split_is_repeatable():
    patients = ["a", "b", "a", "c", "d", "b"]
    kept, held = split_by_patient(patients, 0.5, 3)
    assert sorted(kept + held) == list(range(6))
    assert not {patients[i] for i in kept} & {patients[i] for i in held}
    assert (kept, held) == split_by_patient(patients, 0.5, 3)
    assert sorted(map(len, split_by_patient(["a", "b"], 0.99, 0))) == [1, 1]
    with pytest.raises(InputError, match="two patients"):
        split_by_patient(["a", "a"], 0.5, 0)


def test_a_second_run_gives_the_same_numbers():
    assert learn_and_compare(drawn(60, 0)).as_dict() == learn_and_compare(drawn(60, 0)).as_dict()


def test_json_has_the_keys_of_the_paper_and_others_beside():
    found = learn_and_compare(drawn(60, 0, width=4)).as_dict()
    assert {"weights", "recall_at_1", "ci", "n"} <= set(found)
    assert set(found["weights"]) == {"image_text", "image_image", "text_text"}
    names = {"image_text", "image_image", "text_text", "equal", "learned"}
    assert set(found["recall_at_1"]) == names
    assert names <= set(found["ci"])
    assert not any("four" in name or "gated" in name for name in found["ci"])
    assert found["n"] == 30


@pytest.mark.slow
def test_pooling_draws_patients_of_all_seeds_and_averages_weights():
    apart = [learn_and_compare(drawn(60, 1, seed=n, width=4), seed=n) for n in range(3)]
    pooled = PooledComparison.of(apart)
    assert pooled.table.n == 90
    for name in ("learned", "equal", "four_terms"):
        parts = [made.table.recall[name] for made in apart]
        assert pooled.table.recall[name] == pytest.approx(np.mean(parts))
    weights = [made.learned.weights.image_image for made in apart]
    assert pooled.weights["image_image"] == pytest.approx(np.mean(weights))
    assert pooled.spread["image_image"] == pytest.approx(np.std(weights))
    # The same names in two draws are two patients: four times as many halve the interval.
    four = PooledComparison.of(apart[:1] * 4)
    widths = [np.diff(made.table.ci["equal"])[0] for made in (four, apart[0])]
    assert widths[0] == pytest.approx(widths[1] / 2, rel=0.2)
    with pytest.raises(InputError, match="pooled"):
        PooledComparison.of([])


def test_intervals_that_touch_are_not_apart():
    ci = {"learned": (0.5, 0.7), "equal": (0.3, 0.5), "image_text": (0.2, 0.49)}
    table = RecallTable({}, {**ci, "learned-equal": (0.0, 0.2)}, "image_text", 10)
    assert not table.apart("learned", "equal")
    assert table.apart("learned", "image_text")
    assert table.apart("image_text", "learned")
    assert table.verdict("learned-equal") == "not more than noise"


def test_a_tie_at_rank_one_is_shared():
    tied = FusionQuestion("p", np.zeros((4, 3)), np.array([True, False, False, False]), None)
    assert tied.hit(FusionWeights()) == 0.25


def test_a_mined_record_is_measured_by_all_that_supports_and_learned_from_its_labels():
    """Without a document .5; the positive .9, another .8 that supports, .55 helps, .2 does not."""
    terms = tuple((float(n), 0.0, 0.0) for n in range(4))
    item = TrainingRecord(
        "q", "a", terms, (0.0,) * 4, tuple("wxyz"), (0.2, 0.8, 0.9, 0.5), 2, (0,), unaided=0.5
    )
    found = FusionQuestion.of_record(item)
    assert found.right.tolist() == [False, True, True, False]
    assert found.example.positives.tolist() == [[2.0, 0.0, 0.0, 0.0]]
    assert found.example.negatives.tolist() == [[0.0, 0.0, 0.0, 0.0]]
    # The model is wrong even with the best document: it is the positive all the same.
    wrong = replace(item, confidence=(0.1, 0.2, 0.3, 0.1), unaided=0.25)
    assert FusionQuestion.of_record(wrong).right.tolist() == [False, False, True, False]
    unknown = replace(item, unaided=None)
    assert FusionQuestion.of_record(unknown).right.tolist() == [False, False, True, False]


def test_chance_and_perfect_recall_have_honest_rows():
    """One of three candidates is right, and first: chance 1/3, and recall 1 with Wilson's ends."""
    terms = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]])
    right = np.array([True, False, False])
    questions = [
        FusionQuestion(f"p{n}", terms, right, FusionExample(f"p{n}", terms[0], terms[1:]))
        for n in range(40)
    ]
    found = learn_and_compare(questions).as_dict()
    assert found["chance"] == pytest.approx(1 / 3)
    assert "chance" not in found["recall_at_1"]
    assert found["recall_at_1"]["equal"] == 1
    assert found["ci"]["equal"] == pytest.approx((1 / (1 + 1.959964**2 / 20), 1.0))
    # On 20 patients who agree: as many may differ as would show in none of them.
    unseen = 1.959964**2 / (20 + 1.959964**2)
    assert found["ci"]["learned-equal"] == pytest.approx((-unseen, unseen))
