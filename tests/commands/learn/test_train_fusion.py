"""From mined records to weights that `mrrag ask` takes, and what is wrong in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrrag_llamaindex.commands.learn import train_fusion
from mrrag_llamaindex.files.line_log import LineLog
from mrrag_llamaindex.learning.mining.records import TRAINING_FILE, TrainingHeader, TrainingRecord
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.mcr.weights_file import load_weights
from mrrag_llamaindex.phantom.sets import support_labels

NAMES = {"image_text", "image_image", "text_text"}
KEYS = {"weights", "recall_at_1", "ci", "n"}
HEADER = TrainingHeader("toy@1", "phantom@ab", 0, 4)


def write_records(path: Path, *, vectors: bool = True, count: int = 60) -> Path:
    """Questions whose positive stands out in image-image, and less so in the others."""
    rng = np.random.default_rng(0)
    with LineLog(path, TRAINING_FILE, HEADER) as writer:
        for number in range(count):
            terms = rng.normal(0, 0.2, (6, 4))
            terms[0] += (0.05, 0.3, 0.1, 0.0)
            halves = rng.normal(size=(2, 5))
            image, text = (tuple(half / np.linalg.norm(half)) for half in halves)
            known = {"query_image": image, "query_text": text} if vectors else {}
            record = TrainingRecord(
                f"q{number}",
                f"patient {number}",
                tuple(tuple(row[:3]) for row in terms.tolist()),
                tuple(terms[:, 3].tolist()),
                tuple(f"p{place}" for place in range(6)),
                (0.9, 0.1, 0.2, 0.3, 0.4, 0.5),
                0,
                (1, 2, 3, 4),
                **known,
            )
            writer.append([record])
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "d.jsonl")


@pytest.fixture
def small_phantom(monkeypatch):
    monkeypatch.setattr(train_fusion, "_PHANTOM_QUESTIONS", 24)
    sizes = {**support_labels.label_phantom.__kwdefaults__, "patients": 40, "profiles": 8}
    monkeypatch.setattr(support_labels.label_phantom, "__kwdefaults__", sizes)


@pytest.mark.slow
def test_mined_records_become_weights_of_their_towers(mrrag, tmp_path):
    mined = tmp_path / "d_train.jsonl"
    arguments = ("--data", "phantom", "--model", "phantom", "--limit", "20", "--device", "cpu")
    result = mrrag("mine", *arguments, "--out", mined)
    assert result.code == 0, result.err
    result = mrrag("train-fusion", mined, "--out", tmp_path / "w.json", "--force", "--json")
    assert result.code == 0, result.err
    learned = json.loads(result.out)
    assert learned.keys() >= KEYS
    assert set(learned["weights"]) == NAMES
    assert set(learned["recall_at_1"]) == {*NAMES, "equal", "learned"}
    assert all(low <= high for low, high in learned["ci"].values())
    saved = json.loads((tmp_path / "w.json").read_text())
    assert {name: saved[name] for name in NAMES} == learned["weights"]
    header = json.loads(mined.read_text().splitlines()[0])
    assert saved["towers_identity"] == header["towers_identity"]
    assert learned["gated"]["verdict"] in ("more than noise", "not more than noise")


@pytest.mark.slow
def test_weights_that_other_patients_do_not_prefer_are_not_saved(mrrag, records, tmp_path):
    out = tmp_path / "w.json"
    result = mrrag("train-fusion", records, "--out", out, "--gated", "--json")
    found = json.loads(result.out)["recall_at_1"]
    assert json.loads(result.out)["gated"]["recall_at_1"] <= found["equal"]
    assert (result.code, out.exists()) == (2, False)
    assert "not saved" in result.err
    assert "--force" in result.err
    assert mrrag("train-fusion", records, "--out", out, "--gated", "--force").code == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("options", "kind", "terms"),
    [
        ((), FusionWeights, 3),
        (("--terms", "4"), FusionWeights, 4),
        (("--gated",), QueryGatedWeights, 3),
        (("--gated", "--terms", "4"), QueryGatedWeights, 4),
        (("--no-gated",), FusionWeights, 3),
    ],
)
def test_what_is_saved_is_what_was_asked_for(mrrag, records, tmp_path, options, kind, terms):
    out = tmp_path / "w.json"
    result = mrrag("train-fusion", records, "--out", out, "--force", "--json", *options)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    saved = load_weights(out, towers_identity="toy@1")
    assert type(saved) is kind
    base = saved.base if isinstance(saved, QueryGatedWeights) else saved
    assert (base.text_image != 0) == (terms == 4)
    if isinstance(saved, QueryGatedWeights):
        assert len(saved.terms) == terms
    learned = found["four_terms"]["weights"] if terms == 4 else found["weights"]
    assert base.as_dict() == learned
    assert ("gated" in found) == ("--no-gated" not in options)
    assert set(found["weights"]) == NAMES


@pytest.mark.slow
def test_records_without_vectors_still_teach_the_weights_of_all_questions(mrrag, tmp_path):
    old = write_records(tmp_path / "old.jsonl", vectors=False)
    result = mrrag("train-fusion", old, "--json")
    assert result.code == 0, result.err
    assert "gated" not in json.loads(result.out)
    assert "no vectors" in result.err
    refused = mrrag("train-fusion", old, "--gated", "--out", tmp_path / "w.json")
    assert (refused.code, refused.out) == (2, "")
    assert "mine the records again" in refused.err
    assert not (tmp_path / "w.json").exists()


@pytest.mark.slow
def test_the_same_records_and_seed_give_the_same_weights(mrrag, records):
    first, second = (mrrag("train-fusion", records, "--json").out for _ in range(2))
    assert first == second
    assert mrrag("train-fusion", records, "--json", "--seed", "5").out != first


def test_table_says_whether_each_difference_is_more_than_noise(mrrag, records):
    result = mrrag("train-fusion", records)
    assert result.code == 0, result.err
    assert "learned weights: image-text" in result.out
    for name in ("learned minus equal", "four_terms minus learned", "gated minus learned"):
        (line,) = (line for line in result.out.splitlines() if name in line)
        assert line.rstrip().endswith("more than noise")


@pytest.mark.slow
def test_seeds_of_the_phantom_become_one_table_of_all_regimes(mrrag, small_phantom):
    options = ("--data", "phantom", "--seeds", "2", "--device", "cpu", "--no-gated")
    result = mrrag("train-fusion", *options, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert list(found["regimes"]) == ["combination", "image", "text"]
    assert found.keys() >= KEYS
    assert found["seeds"] == [0, 1]
    assert found["n"] == 24
    assert {name: found[name] for name in KEYS} == {
        name: found["regimes"]["combination"][name] for name in KEYS
    }
    assert found["regimes"]["image"]["recall_at_1"] != found["recall_at_1"]
    table = mrrag("train-fusion", *options, "--regime", "text")
    assert table.code == 0, table.err
    assert "combination" not in table.out
    recall = found["regimes"]["text"]["recall_at_1"]
    for name in (*NAMES, "equal", "learned"):
        assert f"{recall[name]:.3f} [" in table.out
    assert "overlap" in table.out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("none.jsonl",),
        ("none.jsonl", "--data", "phantom"),
        ("none.jsonl", "--seeds", "2"),
        ("none.jsonl", "--regime", "text"),
        ("--data", "phantom", "--seeds", "2", "--out", "w.json"),
    ],
)
def test_nothing_to_learn_from_is_one_line(mrrag, arguments):
    result = mrrag("train-fusion", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "kills"),
    [("--no-gated", 1), ("--gated", 2)],
)
def test_killed_at_any_moment_it_leaves_no_torn_file_and_starts_again(
    mrrag, records, tmp_path, option, kills
):
    """There is no state to lose: the file is the old one or the new one, the end is the same."""
    out, worker = tmp_path / "w.json", tmp_path / "worker.py"
    result = mrrag("train-fusion", records, "--out", out, "--force", "--json", option)
    assert result.code == 0, result.err
    expected = out.read_bytes()
    worker.write_text(
        "import sys\n"
        "from mrrag_llamaindex.commands.app import app\n"
        "while True:\n"
        "    try:\n"
        "        app(['train-fusion', *sys.argv[1:], '--json'])\n"
        "    except SystemExit as done:\n"
        "        assert not done.code\n"
    )
    command = [sys.executable, worker, records, "--out", out, "--force", option]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    delays = np.random.default_rng(0).uniform(0, 0.4, kills)
    for delay in delays:
        out.unlink()
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == json.loads(result.out)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert out.read_bytes() == expected
    again = mrrag("train-fusion", records, "--out", out, "--force", "--json", option)
    assert again.out == result.out
    assert out.read_bytes() == expected
