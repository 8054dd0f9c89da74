"""``mrrag calibrate`` on mined records, and what ``mrrag ask`` makes of the file it writes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mrrag_llamaindex.commands.console import OneLineErrors
from mrrag_llamaindex.commands.learn.calibrate import calibrate
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.records import TRAINING_FILE, TrainingHeader, TrainingRecord
from mrrag_llamaindex.mcr.calibration import Abstention, Calibration, weights_digest
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.store.learned_files import CALIBRATION_FILE, FUSION_FILE
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema

LEARNED = FusionWeights(2, 1, 0.5)


def run(*arguments):
    app = typer.Typer(cls=OneLineErrors, add_completion=False)
    app.callback()(lambda: None)
    app.command()(calibrate)
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def write(path, patients: int, weights: FusionWeights = FusionWeights()):  # noqa: B008
    """Mined records in which a document helps the more surely the higher its score."""
    rng = np.random.default_rng(0)
    settings = {"weights": weights.as_dict()}
    with LineLog(
        path, TRAINING_FILE, TrainingHeader("towers@1", "model@1", 0, 4, settings)
    ) as writer:
        for number in range(patients):
            terms = np.round(rng.uniform(-0.3, 1, (8, 3)), 6)
            helps = rng.random(8) < 1 / (1 + np.exp(6 - 6 * terms.sum(axis=1)))
            confidence = np.where(helps, 0.9, 0.2).tolist()
            record = TrainingRecord(
                question_id=f"q{number}",
                patient_id=f"p{number}",
                terms=tuple(tuple(row) for row in terms.tolist()),
                terms_text_image=(0.0,) * 8,
                pair_ids=tuple(f"d{n}" for n in range(8)),
                confidence=tuple(confidence),
                positive=int(np.argmax(confidence)),
                negatives=(),
                unaided=0.5,
            )
            writer.append([record])
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write(tmp_path_factory.mktemp("records") / "d_train.jsonl", 160)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_records_become_a_calibration_of_their_towers(records, tmp_path, method):
    result = run(records, "--out", tmp_path / "c.json", "--method", method, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["n"] == {"documents": 640, "questions": 80, "patients": 80}
    for name in ("brier", "log_loss"):
        assert found["quality"]["ci"][name][1] < found["base_rate"]["ci"][name][0]
    made = Calibration.load(tmp_path / "c.json")
    made.check("towers@1", FusionWeights())
    assert made.about["source"] == "mined records, rule helps_right"
    rule = found["abstention"]
    assert rule["threshold"] == made.abstention.threshold
    assert rule["coverage"] == made.abstention.answered / 80 > 0.2
    assert rule["errors"] / rule["answered"] <= 0.1


def test_a_picture_is_drawn_or_refused_before_anything_is_read(records, tmp_path):
    pictures = [tmp_path / "new" / f"{name}.svg" for name in "ab"]
    for picture in pictures:
        assert run(records, "--picture", picture).exit_code == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "Calibration on patients held out" in pictures[0].read_text()
    refused = run(tmp_path / "absent.jsonl", "--picture", tmp_path / "c.bmp")
    assert refused.exit_code == 2
    assert refused.stderr == "error: c.bmp: pictures are written as .png, .svg, .pdf\n"


def test_same_seed_gives_the_same_numbers(records):
    first, second, other = (run(records, "--json", "--seed", n).stdout for n in (1, 1, 2))
    assert first == second != other


def test_table_states_the_rate_and_what_is_answered(records):
    result = run(records)
    assert result.exit_code == 0, result.stderr
    for words in ("Brier score", "base rate", "at most 10%", "confidence 95%", "answered: "):
        assert words in result.stdout
    assert result.stdout.count("promised") >= 3  # a line for each bin, with its interval
    told = json.loads(run(records, "--json").stdout)
    bins = told["reliability"]
    assert sum(item["documents"] for item in bins) == 640
    assert [item["promised"] for item in bins] == sorted(item["promised"] for item in bins)
    assert all(item["ci"][0] <= item["happened"] <= item["ci"][1] for item in bins)
    assert told["gain"]["ci"][0] > 0


def test_a_curve_no_better_than_the_base_rate_is_written_by_force_alone(tmp_path):
    """Support has nothing to do with the score."""
    path = tmp_path / "d.jsonl"
    rng = np.random.default_rng(0)
    header = TrainingHeader("towers@1", "model@1", 0, 4, {"weights": FusionWeights().as_dict()})
    with LineLog(path, TRAINING_FILE, header) as writer:
        for number in range(24):
            confidence = np.where(rng.random(8) < 0.5, 0.9, 0.2).tolist()
            record = TrainingRecord(
                question_id=f"q{number}",
                patient_id=f"p{number}",
                terms=tuple(tuple(row) for row in rng.uniform(-0.3, 1, (8, 3)).tolist()),
                terms_text_image=(0.0,) * 8,
                pair_ids=tuple(f"d{n}" for n in range(8)),
                confidence=tuple(confidence),
                positive=int(np.argmax(confidence)),
                negatives=(),
                unaided=0.5,
            )
            writer.append([record])
    out = tmp_path / "c.json"
    refused = run(path, "--out", out)
    assert refused.exit_code == 2
    assert "not shown to be better than one probability for all" in " ".join(refused.stderr.split())
    assert not out.exists()
    forced = run(path, "--out", out, "--force", "--json")
    assert forced.exit_code == 0, forced.stderr
    assert "not shown to be better" in " ".join(forced.stderr.split())
    assert json.loads(forced.stdout)["gain"]["ci"][0] <= 0
    assert out.exists()


def test_unreachable_rate_is_a_note_and_the_curve_is_still_written(records, tmp_path):
    result = run(records, "--error-rate", "0.01", "--out", tmp_path / "c.json", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["abstention"] is None
    assert "no threshold keeps an error rate of 0.01" in " ".join(result.stderr.split())
    assert Calibration.load(tmp_path / "c.json").abstention is None


def test_weights_are_those_of_the_file_and_other_candidates_are_noted(records, tmp_path):
    LEARNED.save(tmp_path / "w.json", towers_identity="towers@1")
    result = run(records, "--weights", tmp_path / "w.json", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == weights_digest(LEARNED)
    assert "retrieved with other weights" in " ".join(result.stderr.split())
    same = write(tmp_path / "d.jsonl", 40, LEARNED)
    assert "note" not in run(same, "--weights", tmp_path / "w.json", "--error-rate", "0.6").stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--data phantom"),
        (("none.jsonl",), "none.jsonl"),
        (("RECORDS", "--data", "phantom"), "--data phantom"),
        (("RECORDS", "--method", "spline"), "spline"),
        (("RECORDS", "--error-rate", "1.5"), "error_rate"),
        (("RECORDS", "--rule", "best"), "best"),
        (("RECORDS", "--weights", "WEIGHTS"), "other@1"),
        (("RECORDS", "--out", "no/such/folder/c.json"), "c.json"),
    ],
)
def test_bad_input_is_one_line(records, tmp_path, arguments, word):
    LEARNED.save(tmp_path / "w.json", towers_identity="other@1")
    names = {"RECORDS": records, "WEIGHTS": tmp_path / "w.json"}
    result = run(*(names.get(item, item) for item in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("note")]
    assert len(lines) == 1
    assert word in lines[0]


@pytest.fixture
def calibrated(corpus, tmp_path):
    """A copy of the store with a calibration beside it; takes its threshold."""
    shutil.copytree(corpus.store, tmp_path / "store")
    header = json.loads(_metadata(corpus))

    def put(threshold):
        rule = Abstention(threshold, 0.1, 0.95, 40, 1, 50)
        digest = weights_digest(FusionWeights())
        knots = ((-3.0, 0.0), (3.0, 1.0))
        Calibration("isotonic", knots, header, digest, rule).save(
            tmp_path / "store" / "calibration.json"
        )
        return tmp_path / "store"

    return put


def _metadata(corpus) -> str:
    from mrrag_llamaindex.store.protocol import PairStore

    with PairStore.open(corpus.store) as store:
        return json.dumps(store.towers_identity)


def ask(mrrag, corpus, store, *options):
    image = ("--store", store, "--image", corpus.image, "--model", "phantom", "--device", "cpu")
    return mrrag("ask", *image, *options, corpus.question)


@pytest.mark.slow
def test_ask_tells_probabilities_and_leaves_out_what_is_improbable(mrrag, corpus, calibrated):
    store = calibrated(0.1)
    answer = json.loads(ask(mrrag, corpus, store, "--json").out)
    values = [row["probability"] for row in answer["sources"]]
    assert values == pytest.approx([(row["score"] + 3) / 6 for row in answer["sources"]])
    assert answer["abstained"] is False
    low = (values[1] + values[2]) / 2
    fewer = json.loads(ask(mrrag, corpus, store, "--json", "--minimum-probability", low).out)
    assert len(fewer["sources"]) == 2
    assert fewer["left_out"] == 4
    assert (
        f"4 documents below {low:g}" in ask(mrrag, corpus, store, "--minimum-probability", low).out
    )
    bare = json.loads(ask(mrrag, corpus, store, "--json", "--calibration", "none").out)
    assert {row["probability"] for row in bare["sources"]} == {None}


@pytest.mark.slow
def test_ask_gives_no_answer_below_the_threshold(mrrag, corpus, calibrated):
    store = calibrated(0.999)
    result = ask(mrrag, corpus, store, "--abstain", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["answer"] is None
    assert found["abstained"] is True
    assert found["probability"] < found["threshold"] == 0.999
    picture = corpus.folder / "undrawn.svg"
    picture.touch()
    told = ask(mrrag, corpus, store, "--abstain", "--picture", picture)
    assert "No relevant case was found" in told.out
    assert "undrawn.svg is not drawn: there is no answer, and what lies there" in told.err
    assert json.loads(ask(mrrag, corpus, store, "--json").out)["answer"]


def test_ask_refuses_a_calibration_of_other_weights(mrrag, corpus, calibrated, tmp_path):
    store = calibrated(0.1)
    LEARNED.save(store / "fusion_weights.json")
    result = ask(mrrag, corpus, store)
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert weights_digest(LEARNED) in result.err
    assert ask(mrrag, corpus, store, "--calibration", "none").code == 0


def test_a_store_keeps_it_beside_its_own_weights(tmp_path):
    records, folder = tmp_path / "d.jsonl", tmp_path / "store"
    write(records, 150, LEARNED)
    PairStore.create(folder, StoreSchema("towers@1", "", 4)).close()
    LEARNED.save(folder / FUSION_FILE, towers_identity="towers@1")
    assert run(records, "--store", folder).exit_code == 0
    kept = Calibration.load(folder / CALIBRATION_FILE)
    assert kept.weights == weights_digest(LEARNED)
    twice = run(records, "--store", folder, "--out", tmp_path / "c.json")
    assert twice.exit_code == 2
    assert "leave out --out" in twice.stderr
    PairStore.create(tmp_path / "other", StoreSchema("towers@2", "", 4)).close()
    foreign = run(records, "--store", tmp_path / "other")
    assert foreign.exit_code == 2
    assert not (tmp_path / "other" / CALIBRATION_FILE).exists()
