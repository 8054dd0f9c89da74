"""``mrrag status``: what a store holds, and what it lacks."""

from __future__ import annotations

import json
import shutil

import numpy as np

from mrrag_llamaindex.doctor.start.status import status_of
from mrrag_llamaindex.store.learned_files import CALIBRATION_FILE, FUSION_FILE
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema


def test_a_store_says_what_it_holds_and_what_comes_next(mrrag, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("MRRAG_PROFILES", str(tmp_path))
    found = json.loads(mrrag("status", corpus.store, "--json").out)
    assert (found["pairs"], found["patients"], found["without_patient"]) == (24, 24, 0)
    assert (found["kind"], found["towers"], found["towers_here"]) == ("chroma", "phantom", True)
    assert found["bytes"] == sum(p.stat().st_size for p in corpus.store.rglob("*") if p.is_file())
    assert found["weights"]["state"] == found["calibration"]["state"] == "absent"
    assert found["model"]["state"] == "in the model"
    steps = [(step["command"].split()[1], bool(step["needs"])) for step in found["next"]]
    assert steps == [("mine", True), ("train-fusion", True), ("calibrate", True), ("ask", True)]
    text = mrrag("status", corpus.store, "--no-patients")
    assert text.code == 0, text.err
    assert "weights      equal" in text.out
    assert "patients" not in text.out.partition("What is missing")[0]


def test_what_lies_with_it_is_read_and_what_does_not_fit_is_said(mrrag, corpus, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(corpus.store, store)
    weights = {"image_text": 0.5, "image_image": 1.5, "text_text": 2.0}
    (store / FUSION_FILE).write_text(json.dumps(weights), encoding="utf-8")
    (store / CALIBRATION_FILE).write_text("{}", encoding="utf-8")
    found = json.loads(mrrag("status", store, "--json").out)
    assert found["weights"]["values"]["image_image"] == 1.5
    assert found["calibration"]["state"] == "unusable"
    assert CALIBRATION_FILE in found["calibration"]["problem"]
    assert not any("train-fusion" in step["command"] for step in found["next"])


def test_labels_of_the_pairs_are_what_weights_can_be_learned_from():
    pairs = [
        Pair("x.png", "Clear.", f"p{n}", None, {"finding": "effusion" if n % 2 else "none"})
        for n in range(8)
    ]
    unit = np.eye(8, 4, dtype=np.float32)[[n % 4 for n in range(8)]]
    with PairStore.create("numpy", StoreSchema("towers@1", "./gone", 4)) as store:
        store.upsert(pairs, unit, unit)
        place = "postgresql://ward:secret@db.example/cases"
        found = status_of(store, place)
    assert "secret" not in json.dumps(found.as_dict())
    assert (found.bytes, found.towers_here, found.without_patient) == (None, False, 8)
    commands = [step.command for step in found.next]
    assert any("--labels finding" in command for command in commands)
    assert any("patient_id=COLUMN" in command for command in commands)


def test_no_store_is_one_line(mrrag, tmp_path):
    result = mrrag("status", tmp_path / "none")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
