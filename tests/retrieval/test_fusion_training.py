"""InfoNCE over three cached similarities, and the comparison on held-out patients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.fusion_recall import (
    Candidates,
    bootstrap_by_patient,
    learn_and_compare,
)
from mrrag_llamaindex.retrieval.fusion_training import (
    FusionExample,
    FusionSettings,
    infonce,
    split_by_patient,
    train_fusion,
)
from mrrag_llamaindex.retrieval.weights import FusionWeights


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


def test_padding_of_fewer_negatives_counts_for_nothing():
    short = example([0.2, 0.1, 0.0], [[-0.5, -0.1, -0.3]])
    long = example([0.1, 0.0, 0.4], [[0.0, 0.3, 0.1], [0.2, 0.2, 0.2], [-0.1, 0.5, 0.0]])
    weights = np.array([0.3, -1.2, 0.7])
    apart = [infonce(weights, [item], 0.1) for item in (short, long)]
    loss, gradient = infonce(weights, [short, long], 0.1)
    assert loss == pytest.approx((apart[0][0] + apart[1][0]) / 2)
    assert gradient == pytest.approx((apart[0][1] + apart[1][1]) / 2)


def drawn(count, signal, seed=0):
    """Questions of one patient each, whose right candidate stands out in the term `signal`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        terms = rng.normal(0, 0.3, (10, 3))
        terms[0, signal] += 0.6
        made = example(terms[0], terms[1:], f"p{number}")
        found.append(Candidates(f"p{number}", terms, np.arange(10) == 0, made))
    return found


@pytest.mark.parametrize("signal", [0, 1, 2])
def test_the_weights_follow_the_term_that_carries_the_signal(signal):
    made = learn_and_compare(drawn(300, signal))
    weights = made.learned.weights.as_array()
    assert np.argmax(weights) == signal
    assert weights[signal] > 3 * np.delete(np.abs(weights), signal).max()
    assert made.ci["learned-equal"][0] > 0


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
    with pytest.raises(InputError, match="two patients"):
        split_by_patient(["a", "a"], 0.5, 0)


def test_a_second_run_gives_the_same_numbers():
    assert learn_and_compare(drawn(60, 0)).as_dict() == learn_and_compare(drawn(60, 0)).as_dict()


def test_a_tie_at_rank_one_is_shared():
    tied = Candidates("p", np.zeros((4, 3)), np.array([True, False, False, False]), None)
    assert tied.hit(FusionWeights()) == 0.25


def test_the_bootstrap_draws_patients_with_all_their_questions():
    # Two patients, ten equal questions each: only 0, 1/2 and 1 can come up.
    hits = {"x": np.repeat([0.0, 1.0], 10)}
    assert bootstrap_by_patient(hits, ["a"] * 10 + ["b"] * 10, 0)["x"] == (0.0, 1.0)
