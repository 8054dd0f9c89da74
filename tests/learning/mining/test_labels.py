"""Training records from labels: right is the same value of another patient, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.learning.fusion.comparison import learn_and_compare
from mrrag_llamaindex.learning.fusion.questions import FusionQuestion
from mrrag_llamaindex.learning.mining.labels import LabelQuestions, mine_labels
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.learning.mining.settings import MiningSettings
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema


class Towers:
    """The question's text is a fixed direction, of its own for each text."""

    identity, source, dimension = "toy@1", "", 8

    def __init__(self):
        self.asked = []

    def embed_texts(self, texts, batch_size=32):
        self.asked += texts
        rows = [np.random.default_rng(len(text)).normal(size=8) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


def made(units, count=24, told=3.0):
    """Pairs of twelve patients; the image tells the finding, nothing tells the view."""
    rng = np.random.default_rng(0)
    pairs, images = [], units(count, seed=1)
    for number in range(count):
        finding = "Effusion" if number % 4 < 2 else "none "
        metadata = {"finding": finding, "view": "PA" if rng.random() < 0.5 else "AP"}
        if number == 5:
            del metadata["view"]
        images[number] = images[number] + told * (1 if finding == "Effusion" else -1) * np.eye(8)[0]
        pairs.append(Pair(f"{number}.png", f"r{number}", f"p{number}", f"a{number // 2}", metadata))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    store = PairStore.create("numpy", StoreSchema("toy@1", "", 8))
    store.upsert(pairs, images, units(count, seed=2))
    return store


def questions(*labels, template="What is the {label}?", **settings):
    return LabelQuestions(labels, template, MiningSettings(**{"candidates": 12, **settings}))


def test_right_are_pairs_of_other_patients_with_the_same_value(units, tmp_path):
    store, towers = made(units), Towers()
    report = mine_labels(store, towers, questions("finding", "view"), tmp_path / "d.jsonl")
    found = read_training_set(tmp_path / "d.jsonl", towers_identity="toy@1")
    assert report.mined == len(found.records) == 47  # one of 24 pairs has no view
    assert towers.asked.count("What is the finding?") == 1
    stored = store.get(store.pair_ids())
    for record in found.records:
        pair_id, label = record.question_id.split()
        asked = stored[pair_id]
        values = [stored[one].metadata[label] for one in record.pair_ids]
        same = [value == asked.metadata[label] for value in values]
        assert [place for place, yes in enumerate(same) if yes] == list(record.positives or ())
        assert asked.patient_id not in {stored[one].patient_id for one in record.pair_ids}
        assert set(record.negatives) == {n for n, yes in enumerate(same) if not yes}
        assert len(record.pair_ids) <= 12


@pytest.mark.slow
def test_weights_learned_from_labels_follow_what_tells_the_label(units, tmp_path):
    store = made(units, 160, told=0.3)
    mine_labels(store, Towers(), questions("finding", candidates=30), tmp_path / "d.jsonl")
    records = read_training_set(tmp_path / "d.jsonl").usable
    asked = [FusionQuestion.of_record(record) for record in records]
    compared = learn_and_compare(asked)
    assert np.argmax(compared.learned.weights.as_array()) == 1
    right, wrong = (
        np.mean([getattr(item.example, name).mean(axis=0) for item in asked], axis=0)
        for name in ("positives", "negatives")
    )
    assert right[1] - wrong[1] > 5 * max(abs(right[0] - wrong[0]), abs(right[2] - wrong[2]))


def test_a_run_goes_on_and_other_labels_are_another_file(units, tmp_path):
    store, out = made(units), tmp_path / "d.jsonl"
    first = mine_labels(store, Towers(), questions("finding"), out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:10]))
    again = mine_labels(store, Towers(), questions("finding"), out)
    assert (first.mined, again.mined, again.resumed) == (24, 15, 9)
    assert sorted(out.read_bytes().splitlines()) == sorted(b"".join(lines).splitlines())
    with pytest.raises(InputError, match="labels"):
        mine_labels(store, Towers(), questions("view"), out)


def test_template_takes_the_columns_of_the_pair_and_names_what_is_missing(units, tmp_path):
    store, towers = made(units), Towers()
    template = "{view}: what is the {label}?"
    report = mine_labels(store, towers, questions("finding", template=template), tmp_path / "d")
    assert set(towers.asked) == {"PA: what is the finding?", "AP: what is the finding?"}
    assert [(item.pair_id, "view" in item.reason) for item in report.skipped] == [("p5", True)]


@pytest.mark.parametrize(
    "template", ["{view what?", "{0}", "{}", "{view.upper}", "{view[0]}", "{view!r}"]
)
def test_template_of_anything_but_names_is_refused_before_a_file_is_begun(template):
    with pytest.raises(InputError, match=r"the question .\{"):
        questions("finding", template=template)
    assert questions("finding", template="{{a}} {label}").template == "{{a}} {label}"


def test_labels_that_no_pair_has_are_refused(units, tmp_path):
    with pytest.raises(InputError, match="'findings'"):
        mine_labels(made(units), Towers(), questions("findings"), tmp_path / "d")
    for bad in ((), ("a", "a")):
        with pytest.raises(ValueError, match="labels"):
            LabelQuestions(bad)


def test_pair_of_unknown_patient_asks_nothing_and_is_no_evidence(units, tmp_path):
    store = made(units)
    store.upsert(
        [Pair("x.png", "r", "unknown", None, {"finding": "Effusion"})], units(1, 8, seed=9),
        units(1, 8, seed=10),
    )  # fmt: skip
    report = mine_labels(store, Towers(), questions("finding", candidates=25), tmp_path / "d")
    assert [item.pair_id for item in report.skipped] == ["unknown"]
    for record in read_training_set(tmp_path / "d").records:
        assert "unknown" not in record.pair_ids
