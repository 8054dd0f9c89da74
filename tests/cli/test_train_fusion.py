"""From mined records to weights that `mrrag ask` takes, and what is wrong in one line."""

from __future__ import annotations

import json

import pytest

NAMES = {"image_text", "image_image", "text_text"}


@pytest.fixture(scope="module")
def mined(mrrag, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mined")
    records = folder / "d_train.jsonl"
    arguments = ("--data", "phantom", "--model", "phantom", "--limit", "40", "--device", "cpu")
    result = mrrag("mine", *arguments, "--out", records)
    assert result.code == 0, result.err
    return records


def test_mined_records_become_weights_of_their_towers(mrrag, mined, tmp_path):
    result = mrrag("train-fusion", mined, "--out", tmp_path / "w.json", "--json")
    assert result.code == 0, result.err
    learned = json.loads(result.out)
    assert set(learned) == {"weights", "recall_at_1", "ci", "n"}
    assert set(learned["weights"]) == NAMES
    assert set(learned["recall_at_1"]) == {*NAMES, "equal", "learned"}
    assert all(low <= high for low, high in learned["ci"].values())
    saved = json.loads((tmp_path / "w.json").read_text())
    assert {name: saved[name] for name in NAMES} == learned["weights"]
    header = json.loads(mined.read_text().splitlines()[0])
    assert saved["towers_identity"] == header["towers_identity"]


def test_the_same_records_and_seed_give_the_same_weights(mrrag, mined):
    first, second = (mrrag("train-fusion", mined, "--json").out for _ in range(2))
    assert first == second
    assert mrrag("train-fusion", mined, "--json", "--seed", "5").out != first


def test_table_says_whether_the_difference_is_more_than_noise(mrrag, mined):
    result = mrrag("train-fusion", mined)
    assert result.code == 0, result.err
    assert "more than noise" in result.out
    assert "learned weights: image-text" in result.out


@pytest.mark.parametrize("arguments", [(), ("none.jsonl",), ("none.jsonl", "--data", "phantom")])
def test_nothing_to_learn_from_is_one_line(mrrag, arguments):
    result = mrrag("train-fusion", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.strip().splitlines()) == 1
