"""D_train by hand: candidates, labels, exclusions, and a run that is killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError, StoreError
from mrrag_llamaindex.learning.mining.mining import mine
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.learning.mining.settings import MiningSettings, label
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from tests.learning.mining import mining_worker
from tests.learning.mining.mining_worker import ToyConfidence, ToyTowers, film, toy_store

QUESTION = GoldQuestion("q", film(10), "what?", "yes", "asked")
IMAGES = [(0.6, 0.8), (0.8, 0.6), (0.0, 1.0), (0.28, 0.96)]
TEXTS = [(0.8, 0.6), (0.6, 0.8), (1.0, 0.0), (0.96, 0.28)]
RATES = {None: 0.3, "report 0": 0.9, "report 1": 0.2, "report 2": 0.1, "report 3": 0.5}


def make_pairs(count: int = 4, **changes) -> list[Pair]:
    pairs = [Pair(f"{n}.png", f"report {n}", f"p{n}", f"patient {n}") for n in range(count)]
    for name, value in changes.items():
        place = int(name[1:])
        pairs[place] = replace(pairs[place], **value)
    return pairs


@pytest.fixture
def towers() -> ToyTowers:
    """The question is (1, 0) in image and (0, 1) in text."""
    return ToyTowers({10: (1, 0), 11: (0, 1)}, {"what?": (0, 1), "where?": (1, 0)})


@pytest.fixture
def run(towers, tmp_path):
    def _run(
        questions=(QUESTION,), pairs=None, images=IMAGES, texts=TEXTS, rates=RATES, **settings
    ):
        store = toy_store(pairs or make_pairs(len(images)), images, texts)
        confidence = ToyConfidence(rates)
        out = tmp_path / "d.jsonl"
        report = mine(list(questions), store, towers, confidence, out, MiningSettings(**settings))
        return report, read_training_set(out), confidence

    return _run


def test_a_whole_record_by_hand(run):
    """Scores are 2.0, 2.2, 1.0 and 1.52, so the candidates come as p1, p0, p3, p2."""
    report, found, confidence = run(candidates=4, negatives=2, seed=7)
    [record] = found.records
    assert record.pair_ids == ("p1", "p0", "p3", "p2")
    flat = [value for row in record.terms for value in row]
    expected = [0.6, 0.8, 0.8, 0.8, 0.6, 0.6, 0.96, 0.28, 0.28, 1.0, 0.0, 0.0]
    assert flat == pytest.approx(expected, abs=1e-6)
    assert record.terms_text_image == pytest.approx([0.6, 0.8, 0.96, 1.0], abs=1e-6)
    assert record.confidence == (0.2, 0.9, 0.5, 0.1)
    assert (record.positive, record.negatives, record.unaided) == (1, (3, 0), 0.3)
    assert (record.question_id, record.patient_id) == ("q", "asked")
    assert (record.query_image, record.query_text) == ((1.0, 0.0), (0.0, 1.0))
    assert confidence.asked == [
        ("what?", "yes", (None, "report 1", "report 0", "report 3", "report 2"))
    ]
    assert found.header.towers_identity == "toy@1"
    assert found.header.model == "generator@1"
    assert (found.header.seed, found.header.negatives) == (7, 2)
    assert (report.mined, report.resumed, report.usable, report.skipped) == (1, 0, 1, ())


def test_records_of_a_question_need_no_second_look_at_the_store(run, monkeypatch):
    monkeypatch.setattr(PairStore, "get", lambda *_: pytest.fail("the hits hold all four"))
    _, found, _ = run(candidates=4, pool="fused")
    assert found.records[0].terms_text_image == pytest.approx([0.6, 0.8, 0.96, 1.0], abs=1e-6)


def test_header_of_three_weights_is_that_of_earlier_versions(run):
    _, found, _ = run(candidates=4)
    equal = {"image_text": 1.0, "image_image": 1.0, "text_text": 1.0}
    assert found.header.settings["weights"] == equal


def test_four_weights_choose_the_candidates_and_stand_in_the_header(run):
    weights = FusionWeights(0.0, 0.0, 0.0, 1.0)
    _, found, _ = run(candidates=2, weights=weights)
    assert found.records[0].pair_ids == ("p2", "p3")
    assert found.header.settings["weights"]["text_image"] == 1.0


def test_weights_choose_the_candidates(run):
    weights = FusionWeights(1.0, 0.0, 0.0)
    _, found, _ = run(candidates=2, weights=weights, pool="fused")
    assert found.records[0].pair_ids == ("p2", "p3")


def test_weights_of_each_question_choose_the_candidates(run):
    """Equal weights moved to 1.75, .25, .25: the scores are 1.70, 1.45, 1.75 and 1.82."""
    gate = replace(
        QueryGatedWeights.untrained(FusionWeights(), 2), out_bias=np.array([20.0, -20.0, -20.0])
    )
    _, found, _ = run(candidates=2, weights=gate)
    assert found.records[0].pair_ids == ("p3", "p2")
    _, same, confidence = run(candidates=2, weights=gate)
    assert same == found
    assert not confidence.asked
    other = replace(gate, out_bias=np.array([20.0, -20.0, 20.0]))
    with pytest.raises(InputError, match="gate"):
        run(candidates=2, weights=other)


def test_each_term_brings_its_best_pairs_in_turn_with_fused_scores_in_order(run):
    """By the fused score p2, p3; best by image-text p2, by image-image and text-text p1."""
    weights = FusionWeights(1.0, 0.0, 0.0)
    _, found, _ = run(candidates=2, weights=weights, pool="each_term")
    assert found.records[0].pair_ids == ("p2", "p1")
    assert found.records[0].terms[1] == pytest.approx((0.6, 0.8, 0.8), abs=1e-6)


def test_candidates_of_each_term_are_ranked_by_the_fused_score(run):
    """They are found in the order p2, p1, p3, p0; their image-text is 1, .6, .96 and .8."""
    weights = FusionWeights(1.0, 0.0, 0.0)
    _, found, _ = run(candidates=4, weights=weights, pool="each_term")
    assert found.records[0].pair_ids == ("p2", "p3", "p0", "p1")


@pytest.mark.parametrize(
    ("confidence", "negatives", "margin", "expected"),
    [
        ([0.2, 0.9, 0.5, 0.1], 2, 0.05, (1, (3, 0))),
        ([0.2, 0.9, 0.5, 0.1], 9, 0.05, (1, (3, 0, 2))),
        ([0.5], 4, 0.0, (0, ())),  # a single candidate
        ([0.5, 0.5, 0.5], 4, 0.0, (0, ())),  # all alike
        ([0.1, 0.9, 0.9, 0.1], 1, 0.05, (1, (0,))),  # of equal ones the best-ranked
        ([0.1, 0.9, 0.9, 0.1], 4, 0.05, (1, (0, 3))),  # never one that does as well
        ([0.9, 0.86, 0.85, 0.84], 4, 0.05, (0, (3, 2))),
        ([0.9, 0.86, 0.85, 0.84], 4, 0.0, (0, (3, 2, 1))),  # the paper's rule
        ([-2.0, -0.5, -3.0], 1, 0.05, (1, (2,))),  # log-probabilities of open answers
    ],
)
def test_labels(confidence, negatives, margin, expected):
    assert label(confidence, negatives, margin) == expected


def test_what_differs_by_less_than_rounding_is_a_tie(run):
    rates = {**RATES, "report 1": 0.9 + 4e-7, "report 0": 0.9 - 4e-7}
    _, found, _ = run(candidates=4, rates=rates, margin=0.0)
    assert found.records[0].positive == 0
    assert 1 not in found.records[0].negatives


def test_question_that_no_document_helps_is_kept_but_not_learned_from(run):
    report, found, _ = run(candidates=4, rates={**RATES, None: 0.95})
    [record] = found.records
    assert (record.positive, record.unaided) == (1, 0.95)
    assert found.usable == ()
    assert report.usable == 0


def test_own_pair_same_study_and_same_patient_are_no_candidates(run):
    question = replace(QUESTION, pair_id="p1", study_id="s", patient_id="patient 0")
    pairs = make_pairs(p3={"metadata": {"study_id": "s"}})
    _, found, _ = run([question], pairs, candidates=4)
    assert found.records[0].pair_ids == ("p2",)
    assert found.usable == ()


def test_own_image_under_another_patient_is_no_candidate(run):
    images = [*IMAGES[:3], (1.0, 0.0)]
    _, found, _ = run(images=images, candidates=4)
    assert found.records[0].pair_ids == ("p1", "p0", "p2")


def test_pair_without_report_leaves_its_place_to_the_next(run, tmp_path):
    pairs, texts = make_pairs(p1={"report": None}), [TEXTS[0], (0.0, 0.0), *TEXTS[2:]]
    weights = FusionWeights(0.1, 1.0, 0.1)  # the pair without report would be the best
    for pool, expected in (("fused", ("p0", "p3")), ("each_term", ("p0", "p2"))):
        (tmp_path / "d.jsonl").unlink(missing_ok=True)
        options = {"pairs": pairs, "texts": texts, "weights": weights, "pool": pool}
        _, found, _ = run(candidates=2, **options)
        assert found.records[0].pair_ids == expected


def test_document_that_the_model_cannot_read_is_left_out(run):
    _, found, _ = run(candidates=4, rates={**RATES, "report 0": None})
    [record] = found.records
    assert record.pair_ids == ("p1", "p3", "p2")
    assert len(record.terms) == len(record.terms_text_image) == 3
    assert (record.positive, record.negatives) == (1, (2, 0))


def test_question_that_cannot_be_used_is_named_and_the_others_go_on(run, tmp_path):
    secret = tmp_path / "anna-miller.png"
    nothing = replace(QUESTION, question_id="gone", image=str(secret))
    patients = {"patient_id": "asked"}
    report, found, _ = run([nothing, QUESTION], candidates=4)
    assert [record.question_id for record in found.records] == ["q"]
    [skipped] = report.skipped
    assert (skipped.row, skipped.pair_id) == (1, "gone")
    assert "anna-miller" not in skipped.reason
    (tmp_path / "d.jsonl").unlink()
    mine_all = {f"p{n}": patients for n in range(4)}
    report, found, _ = run(pairs=make_pairs(**mine_all), candidates=4)
    assert "no document" in report.skipped[0].reason
    assert found.records == ()


def test_second_run_asks_nothing_and_leaves_the_file_as_it_is(run, tmp_path):
    questions = [QUESTION, replace(QUESTION, question_id="r", question="where?")]
    run(questions, candidates=4)
    before = (tmp_path / "d.jsonl").read_bytes()
    report, _, confidence = run(questions, candidates=4)
    assert (report.mined, report.resumed) == (0, 2)
    assert confidence.asked == []
    assert (tmp_path / "d.jsonl").read_bytes() == before


def test_run_on_other_questions_store_or_settings_is_refused(run):
    run(candidates=4)
    other = {
        "questions": {"questions": [replace(QUESTION, answer="no")]},
        "pairs": {"images": IMAGES[:3], "texts": TEXTS[:3]},
        "weights": {"weights": FusionWeights(2.0, 1.0, 1.0)},
        "margin": {"margin": 0.2},
        "pool": {"pool": "each_term"},
        "negatives": {"negatives": 3},
    }
    for name, change in other.items():
        with pytest.raises(InputError, match=f"begun with {name} "):
            run(**{"candidates": 4, **change})


def test_store_of_other_towers_and_equal_ids_are_refused(towers, tmp_path):
    store = toy_store(make_pairs(), IMAGES, TEXTS)
    confidence, out = ToyConfidence(RATES), tmp_path / "d.jsonl"
    with pytest.raises(InputError, match="same question_id"):
        mine([QUESTION, QUESTION], store, towers, confidence, out)
    towers.identity = "other@2"
    with pytest.raises(StoreError, match="other@2"):
        mine([QUESTION], store, towers, confidence, out)
    assert not out.exists()


def test_seed_draws_the_questions_and_keeps_their_order():
    questions = [replace(QUESTION, question_id=f"{n:03d}") for n in range(50)]
    drawn = [
        [item.question_id for item in MiningSettings(questions=10, seed=seed).drawn(questions)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len(set(drawn[0])) == 10
    assert drawn[2] != drawn[0]
    assert MiningSettings(questions=99).drawn(questions) == questions


@pytest.mark.parametrize(
    "change",
    [{"pool": "all"}, {"candidates": 1}, {"negatives": 0}, {"margin": -0.1}, {"questions": 0}],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        MiningSettings(**change)


@pytest.mark.slow
def test_killed_run_loses_at_most_the_question_in_hand(tmp_path):
    expected = tmp_path / "expected.jsonl"
    mining_worker.run(str(expected), 0.0)
    out = tmp_path / "killed.jsonl"
    root = Path(__file__).parents[3]
    command = [sys.executable, mining_worker.__file__, str(out), "0.05"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        for _ in range(4):
            assert worker.stdout.readline()
        worker.kill()
    kept = len(read_training_set(out).records)
    assert 4 <= kept < 12
    assert expected.read_bytes().startswith(out.read_bytes().rpartition(b"\n")[0])
    report = mining_worker.run(str(out), 0.0)
    assert (report.resumed, report.mined) == (kept, 12 - kept)
    assert out.read_bytes() == expected.read_bytes()


def test_progress_counts_what_was_there(tmp_path):
    told: list[tuple[int, int, int]] = []
    out = str(tmp_path / "d.jsonl")
    mining_worker.run(out, 0.0, lambda *numbers: told.append(numbers))
    assert told == [(n, 12, 0) for n in range(1, 13)]
    told.clear()
    mining_worker.run(out, 0.0, lambda *numbers: told.append(numbers))
    assert told[-1] == (12, 12, 12)
