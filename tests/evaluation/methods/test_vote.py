"""The row `vote`: who votes, from answers or from finding labels, and that no model is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.parts import Parts
from mrrag_llamaindex.evaluation.methods.learning import Learned, learn
from mrrag_llamaindex.evaluation.methods.registry import build_method, row_named
from mrrag_llamaindex.evaluation.methods.vote import (
    Voters,
    answers_to,
    has_answers,
    named_finding,
)
from mrrag_llamaindex.evaluation.run.harness import Harness
from mrrag_llamaindex.evaluation.run.records import HarnessSettings
from mrrag_llamaindex.mcr.score import FusionWeights
from tests.evaluation.data.hand_set import hand_set

IMAGE = FusionWeights(0.0, 1.0, 0.0)
SIMILAR = [(0.9, "yes"), (0.8, "left lung"), (0.7, "No."), (0.6, None), (0.5, "no")]


def answered():
    """Five pairs whose image is so similar to the question's, with what they answered."""
    data = hand_set([((score, 0), (0, 0)) for score, _ in SIMILAR], [((1, 0), (0, 1))])
    return replace(data, answers=tuple(answer for _, answer in SIMILAR))


def test_only_yes_and_no_vote_and_the_best_k_of_them():
    ballot, names = Voters(IMAGE, k=2, temperature=0.1).ballot(answered(), 0)
    assert names == ("p0", "p2")
    # e^(2) to 1, for scores .9 and .7
    assert ballot.p_yes == pytest.approx(np.exp(2) / (np.exp(2) + 1), abs=1e-5)
    ballot, names = Voters(IMAGE, k=9, temperature=10.0).ballot(answered(), 0)
    assert (names, ballot.answer) == (("p0", "p2", "p4"), "no")


def test_the_questions_own_pair_does_not_vote():
    data = hand_set(
        [((0.9, 0), (0, 0)), ((0.1, 0), (0, 0))],
        [((1, 0), (0, 1))],
        patients=["own", "other"],
        asked=[{"patient_id": "own"}],
    )
    data = replace(data, answers=("yes", "no"))
    assert Voters(IMAGE).ballot(data, 0)[1] == ("p1",)
    assert Voters(IMAGE).ballot(replace(data, answers=("yes", "left")), 0) == (None, ())


def test_finding_labels_answer_the_question_that_names_one():
    facts = {"p0": {"pleural effusion": True}, "p1": {"pleural effusion": False}, "p2": {}}
    data = hand_set([((0.5, 0), (0, 0))] * 3, [((1, 0), (0, 1))], facts=facts)
    asked = replace(data.questions[0], question="Is there a Pleural  effusion?")
    data = replace(data, questions=(asked,))
    assert answers_to(data, 0).tolist() == ["yes", "no", ""]


def test_a_finding_is_named_once_or_not_at_all():
    facts = {"p0": {"effusion": True, "pleural effusion": True, "edema": False}}
    data = hand_set([((1, 0), (0, 0))], [((1, 0), (0, 1))], facts=facts)
    assert named_finding(data, "Is there a pleural effusion?") == "pleural effusion"
    assert named_finding(data, "Is there an effusion?") == "effusion"
    assert named_finding(data, "Is there edema or effusion?") is None
    assert named_finding(data, "Is there angioedema?") is None


def test_pairs_without_answers_are_told_from_those_with_some():
    data = answered()
    assert has_answers(data)
    assert not has_answers(replace(data, answers=("left", None, "", "x", None)))
    assert not has_answers(replace(data, answers=()))


def run(data, *names: str):
    harness = Harness(None, "towers", HarnessSettings(methods=names))
    return harness.run(Parts((data,)).tests, Learned(IMAGE))


def test_the_harness_runs_it_without_a_model():
    found = run(answered(), "vote", "mcr")
    (answer,) = found.predictions["vote"]
    assert (answer.text, answer.documents) == ("yes", ("p0", "p2", "p4"))
    assert answer.p_yes + answer.p_no == pytest.approx(1)
    assert found.not_run == {"mcr": "no model was loaded"}


def test_pairs_that_answer_nothing_are_said_to():
    with pytest.raises(InputError, match=r"no method can be run: .* column answer or label"):
        run(replace(answered(), answers=()), "vote")


def test_settings_tried_are_twelve_and_differ():
    row = row_named("vote")
    tried = row.settings(build_method("vote"), depth=1)
    assert len({method.tuned_part() for method in tried}) == 12


def test_without_a_model_weights_stay_equal_and_it_is_said():
    learned = learn(answered(), None, None, None, wanted=("vote",))
    assert learned.weights == FusionWeights()
    assert "equal" in learned.notes[0]


def test_one_vote_of_each_patient():
    """Of one patient with three yes and two others with a no, all alike: two to one."""
    patients = ["a", "a", "a", "b", "c"]
    data = hand_set(
        [((score, 0), (0, 0)) for score in (0.9, 0.9, 0.9, 0.8, 0.8)],
        [((1, 0), (0, 1))],
        patients=patients,
    )
    data = replace(data, answers=("yes", "yes", "yes", "no", "no"))
    voters = Voters(IMAGE, temperature=10.0)
    assert voters.ballot(data, 0)[0].answer == "yes"
    ballot, names = voters.ballot(replace(data, one_per="patient"), 0)
    assert (ballot.answer, names) == ("no", ("p0", "p3", "p4"))
