"""Votes by weights: hand-made tables, choice on training alone, and nothing of a question's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.evaluation.tasks.metrics.matching import exact_match, token_f1
from mrrag_llamaindex.evaluation.votes import features as making
from mrrag_llamaindex.evaluation.votes.choice import (
    COUNTS,
    TEMPERATURES,
    VoteSetting,
    choose,
    of_gold,
    shares_of_yes,
    single,
    tried_weights,
)
from mrrag_llamaindex.evaluation.votes.features import Features, near_duplicates
from mrrag_llamaindex.evaluation.votes.gate import VoteGate, _Gate, train_gate
from mrrag_llamaindex.evaluation.votes.open_answers import (
    choose_open,
    open_votes,
)
from mrrag_llamaindex.evaluation.votes.report import difference_line, lines, markdown
from mrrag_llamaindex.evaluation.votes.study import VoteDifference, run_study
from mrrag_llamaindex.evaluation.votes.tables import VoteTable, VoteTables, vote_tables
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

TERMS = ("good", "bad")


def table(values, answers, golds, *, allowed=None, folds=None, inputs=None) -> VoteTable:
    """A table of terms `good` and `bad`; `values` has shape (2, n, m)."""
    array = np.array(values, dtype=np.float32)
    count = array.shape[1]
    known = {"no": 0, "yes": 1}
    return VoteTable(
        terms=TERMS,
        values=array,
        allowed=np.ones(array.shape[1:], dtype=bool) if allowed is None else np.array(allowed),
        answers=tuple(answers),
        codes=np.array([known.setdefault(item, len(known)) for item in answers]),
        golds=tuple(golds),
        question_ids=tuple(f"q{n}" for n in range(count)),
        owners=tuple(f"image {n}" for n in range(count)),
        inputs=np.zeros((count, 2), np.float32) if inputs is None else np.array(inputs, np.float32),
        folds=np.arange(count) % 5 if folds is None else np.array(folds),
    )


def random_table(seed: int, count: int = 60, pairs: int = 40) -> VoteTable:
    """`good` is higher for pairs that answer as the question's gold does; `bad` is noise."""
    rng = np.random.default_rng(seed)
    answers = rng.choice(["yes", "no"], pairs)
    golds = rng.choice(["yes", "no"], count)
    agree = np.where(golds[:, None] == answers[None, :], 0.4, -0.4)
    values = [agree + rng.normal(size=agree.shape), rng.normal(size=agree.shape)]
    return table(values, answers.tolist(), golds.tolist())


class TestChoice:
    def test_shares_by_hand(self):
        """Scores 1, 0 and 2; the third pair may not vote. Temperature .5: e^2 to 1."""
        made = table(
            [[[1, 0, 2]], [[0, 0, 0]]], ["yes", "no", "no"], ["yes"], allowed=[[True, True, False]]
        )
        share = shares_of_yes(made, (1.0, 0.0))
        assert share[5, 0.5][0] == pytest.approx(np.exp(2) / (np.exp(2) + 1), abs=1e-6)
        assert set(share) == {(k, t) for k in COUNTS for t in TEMPERATURES}

    def test_only_the_best_k_vote(self):
        scores = [0.9] + [0.8] * 9
        made = table([[scores], [scores]], ["yes"] + ["no"] * 9, ["yes"])
        share = shares_of_yes(made, (1.0, 0.0))
        assert share[5, 2.0][0] == pytest.approx(1 / (1 + 4 * np.exp(-0.05)), abs=1e-6)
        assert share[15, 2.0][0] == pytest.approx(1 / (1 + 9 * np.exp(-0.05)), abs=1e-6)

    def test_a_question_that_nobody_may_answer_is_wrong(self):
        made = table([[[1.0, 1.0]]] * 2, ["yes", "yes"], ["yes"], allowed=[[False, False]])
        share = shares_of_yes(made, (1.0, 1.0))[5, 0.5]
        assert np.isnan(share[0])
        assert of_gold(made, share).tolist() == [0.0]

    def test_the_informative_term_wins(self):
        chosen = choose(random_table(0), tried_weights(2))
        assert chosen.setting.weights[0] == 1.0
        assert chosen.setting.weights[1] < 1.0
        noise = choose(random_table(0), [single(TERMS, "bad")])
        assert chosen.smooth > noise.smooth

    def test_what_is_tried_holds_equal_and_single_terms_once(self):
        tried = tried_weights(6)
        assert len(tried) == len(set(tried)) == 1 + 6 + 6 * 5 * 3 - 15  # 1 and 1 is found twice


class TestScales:
    def test_a_terms_unit_changes_nothing_once_it_is_scaled(self):
        made = random_table(1)
        loud = replace(made, values=made.values * np.array([1, 50], np.float32)[:, None, None])
        one, other = made.scaled(made.scales), loud.scaled(loud.scales)
        assert np.allclose(one.values, other.values, atol=1e-5)
        assert one.scales == pytest.approx([1, 1], abs=1e-4)


class TestOpen:
    def test_the_answer_of_the_largest_share_wins_as_its_best_pair_wrote_it(self):
        made = table(
            [[[1.0, 0.9, 0.9, 0.0]], [[0.0] * 4]],
            ["Left lung", "right  lung", "right  lung", "heart"],
            ["right lung"],
        )
        assert open_votes(made, VoteSetting((1.0, 0.0), 4, 1.0)) == ["right  lung"]
        assert open_votes(made, VoteSetting((1.0, 0.0), 1, 1.0)) == ["Left lung"]
        chosen = choose_open(made, (1.0, 0.0))
        assert open_votes(made, chosen) == ["right  lung"]

    def test_nobody_to_ask_is_an_empty_answer(self):
        made = table([[[1.0]]] * 2, ["x"], ["x"], allowed=[[False]])
        assert open_votes(made, VoteSetting((1.0, 1.0), 5, 1.0)) == [""]

    @pytest.mark.parametrize(
        ("answer", "gold", "exact", "f1"),
        [
            ("The right lung.", "right lung", True, 1.0),
            ("right lung", "right upper lung", False, 0.8),
            ("heart", "lung", False, 0.0),
            ("", "lung", False, 0.0),
        ],
    )
    def test_metrics(self, answer, gold, exact, f1):
        assert exact_match(answer, gold) is exact
        assert token_f1(answer, gold) == pytest.approx(f1)


def by_kind(seed: int, folds=None) -> VoteTable:
    """Which of the two terms tells the answer depends on what the question says (its input)."""
    made = random_table(seed, count=200)
    kind = np.random.default_rng(seed + 9).integers(2, size=200)
    swapped = made.values[::-1]
    values = np.where((kind == 1)[None, :, None], swapped, made.values)
    inputs = np.eye(2, dtype=np.float32)[kind]
    return replace(made, values=np.ascontiguousarray(values), inputs=inputs)


class TestGate:
    @pytest.mark.slow
    def test_it_helps_where_what_is_asked_decides(self):
        train, test = by_kind(3), by_kind(4)
        base = choose(train, [(1.0, 1.0)]).setting
        gate = train_gate(train, base, 0)
        assert gate.steps > 0
        plain = shares_of_yes(test, base.weights)[base.k, base.temperature]
        assert of_gold(test, gate.shares_of_yes(test)).mean() > of_gold(test, plain).mean() + 0.03

    def test_untrained_it_is_the_base(self):
        made = random_table(5)
        base = VoteSetting((1.0, 0.5), 5, 0.5)
        networks = {fold: _Gate(2, base.weights, fold) for fold in range(5)}
        expected = shares_of_yes(made, base.weights)[5, 0.5]
        shares = VoteGate(base, 0, networks).shares_of_yes(made)
        assert shares == pytest.approx(expected, abs=1e-5)

    @pytest.mark.slow
    def test_a_question_is_asked_of_a_gate_that_was_not_trained_on_its_fold(self):
        """Golds of fold 0 turned round: its own gate is the same, and the others differ."""
        made = by_kind(3)
        base = choose(made, [(1.0, 1.0)]).setting
        turned = tuple(
            ("no" if gold == "yes" else "yes") if fold == 0 else gold
            for gold, fold in zip(made.golds, made.folds, strict=True)
        )
        one = train_gate(made, base, 0)
        other = train_gate(replace(made, golds=turned), base, 0)
        steps = min(one.steps, other.steps)
        if one.steps != other.steps:
            pytest.skip("another number of steps was chosen")
        assert steps > 0

        def first(gate, fold):
            return gate.networks[fold].out.weight

        assert first(one, 0).equal(first(other, 0))
        assert not first(one, 1).equal(first(other, 1))


class TestStudy:
    @pytest.mark.slow
    def test_the_test_part_decides_nothing(self):
        train, test, opened = random_table(0), random_table(1), random_table(2)
        scales = train.scales
        one = run_study(VoteTables(train, test, opened, opened, scales), 0)
        turned = replace(test, golds=tuple("no" if g == "yes" else "yes" for g in test.golds))
        other = run_study(VoteTables(train, turned, opened, opened, scales), 0)
        assert [row.setting for row in one.rows] == [row.setting for row in other.rows]
        assert one.best_single == other.best_single == "good"
        for before, after in zip(one.rows, other.rows, strict=True):
            assert before.closed.value == pytest.approx(1 - after.closed.value)
        row = {item.name: item for item in one.rows}
        assert list(row) == ["good", "bad", "equal", "learned", "gated"]
        low, high = row["good"].closed.ci
        assert low < row["good"].closed.value < high
        assert row["gated"].exact is None
        difference = one.differences[0]
        expected = row["learned"].closed.value - row["equal"].closed.value
        assert (difference.name, difference.minus) == ("learned", "equal")
        assert difference.value == pytest.approx(expected)
        text = markdown(one)
        assert "| learned |" in text
        assert any("learned minus equal" in line for line in lines(one))

    def test_noise_is_called_noise(self):
        assert "noise" in difference_line(VoteDifference("learned", "equal", 0.01, (-0.02, 0.04)))
        assert "noise" not in difference_line(VoteDifference("a", "b", 0.03, (0.01, 0.05)))
        assert "noise" not in difference_line(VoteDifference("a", "b", -0.03, (-0.05, -0.01)))


def made_features(seed: int = 0, images: int = 30) -> Features:
    """Random features; every image has four questions, those of the last ten images are test."""
    rng = np.random.default_rng(seed)
    questions = [
        GoldQuestion(
            f"q{image}-{n}",
            Image.new("RGB", (32, 32)),
            "Is it there?" if n < 2 else "Where is it?",
            ("yes", "no", "left lung", "right lung")[n],
            patient_id=f"image-{image}",
        )
        for image in range(images)
        for n in range(4)
    ]
    training = 4 * (images - 10)
    of_image = rng.normal(size=(images, 24)).astype(np.float32)
    of_image[1] = of_image[0] * 1.1  # nearly the same image
    of_text = rng.normal(size=(len(questions), 16)).astype(np.float32)
    return Features(
        tuple(questions),
        training,
        np.repeat(np.arange(images), 4),
        of_image,
        of_text,
        of_text[:training] + 0.1,
        "random",
    )


class TestTables:
    def test_own_image_and_near_duplicates_do_not_vote(self):
        data = made_features()
        tables = vote_tables(data, 0, heads=False)
        train = tables.closed_training
        assert train.terms == ("raw_image", "raw_text")
        assert train.values.shape == (2, 40, 40)
        image = np.repeat(np.arange(20), 2)
        group = np.where(image == 1, 0, image)
        assert (train.allowed == (group[:, None] != group[None, :])).all()
        assert tables.closed_test.allowed.all()  # of images that no pair shows
        assert tables.open_test.values.shape == (2, 20, 40)
        assert set(tables.open_training.answers) == {"left lung", "right lung"}

    def test_a_test_question_about_a_training_image_does_not_see_its_pairs(self):
        data = made_features()
        moved = data.image_of.copy()
        moved[-4:] = 5  # the last four questions, of the test part, are about image 5
        test = vote_tables(replace(data, image_of=moved), 0, heads=False).closed_test
        image = np.repeat(np.arange(20), 2)
        assert (test.allowed[-2:] == (image != 5)).all()

    def test_who_votes_is_read_off_the_question_and_not_off_the_gold_answer(self):
        data = made_features()
        asked = list(data.questions)
        asked[-4] = replace(asked[-4], question="Where is it?")  # the gold answer is yes
        test = vote_tables(replace(data, questions=tuple(asked)), 0, heads=False).closed_test
        assert not test.allowed[-2].any()
        assert test.allowed[-1].all()

    def test_heads_of_a_fold_do_not_know_its_answers(self, monkeypatch):
        data = made_features()
        seen = []
        original = making.fit_ensemble

        def spy(pairs, inputs, settings, run, shape):
            seen.append(pairs)
            short = replace(settings, max_epochs=1)
            return original(pairs, inputs, short, replace(run, repeats=1), shape)

        monkeypatch.setattr(making, "fit_ensemble", spy)
        folds = data.folds(0)
        for fold in range(making.FOLDS):
            made = making.heads_of_fold(data, fold, 0)
            own = folds[data.image_of[: data.training]] == fold
            expected = {q.question_id for q, o in zip(data.questions, own, strict=False) if not o}
            assert set(seen[-1].pair_ids) == expected
            assert made.images.shape == (30, 128)
            assert np.linalg.norm(made.queries, axis=1) == pytest.approx(1, abs=1e-5)
        assert folds[0] == folds[1]

    def test_chains_of_near_duplicates_are_one_group(self):
        angles = np.radians([0, 10, 20, 90])
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        assert near_duplicates(rows, 0.98).tolist() == [0, 0, 0, 1]
