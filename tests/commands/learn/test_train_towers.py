"""``mrrag train-towers``: towers that ingest takes, the same after a kill, errors of one line."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mrrag_llamaindex.learning.towers.training_pairs import split_pairs, training_pairs
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus
from mrrag_llamaindex.store.ingest.pair_table import read_pairs
from mrrag_llamaindex.store.learned_files import weights_of
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.towers.loading import load_towers


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> tuple[Path, Path]:
    """The phantom's ResNet and BERT, without the projections that join them."""
    folder = tmp_path_factory.mktemp("encoders")
    towers: Any = load_towers("phantom")
    towers.network.image_encoder.save_pretrained(folder / "image")
    towers.images.save(folder / "image")
    towers.network.text_encoder.save_pretrained(folder / "text")
    towers.texts.save(folder / "text")
    return folder / "image", folder / "text"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    made = make_corpus(8, patients=200, queries=0, profiles=200)
    return write_corpus(tmp_path_factory.mktemp("pairs"), made.studies)


@pytest.fixture
def arguments(encoders, table) -> list[object]:
    backbones = ("--image-backbone", encoders[0], "--text-backbone", encoders[1])
    return ["train-towers", table, *backbones, "--device", "cpu"]


HEADS = ("--epochs", 30, "--repeats", 1)
FULL = ("--regime", "full", "--image-size", 80, "--dimension", 32, "--learning-rate", 2e-3)
QUICK = (*FULL, "--batch-size", 48, "--chunk-size", 24, "--epochs", 12)


def recall(results: dict[str, Any], name: str = "recall@5") -> dict[str, float]:
    return results["seeds"][0]["test"]["report_to_image"][name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "kind"),
    [
        pytest.param(HEADS, "frozen@", id="heads"),
        pytest.param(QUICK, "resnet-bert@", id="full"),
    ],
)
def test_towers_learn_and_ingest_takes_them(mrrag, arguments, table, tmp_path, regime, kind):
    out = tmp_path / "towers"
    result = mrrag(*arguments, "--out", out, *regime, "--json")
    assert result.code == 0, result.err
    results = json.loads(result.out)
    found = recall(results)
    assert found["low"] > found["chance"]  # with 30 test pairs, chance is .17
    assert found["value"] > 2 * found["chance"]
    assert results["towers_identity"].startswith(kind)
    assert load_towers(str(out)).identity == results["towers_identity"]
    written = json.loads((out / "results.json").read_text())
    assert written["seeds"] == results["seeds"]
    assert written["settings"]["seed"] == 0
    store = mrrag("ingest", table, "--store", tmp_path / "store", "--towers", out, "--json")
    assert store.code == 0, store.err
    assert json.loads(store.out)["added"] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "file"),
    [
        pytest.param(HEADS, "heads.safetensors", id="heads"),
        pytest.param(QUICK, "model.safetensors", id="full"),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(mrrag, arguments, tmp_path, regime, file):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert mrrag(*arguments, "--out", whole, *regime).code == 0
    again = [*arguments, "--out", killed, *regime]
    command = [sys.executable, "-m", "mrrag_llamaindex.cli", *map(str, again)]
    state = killed / "training" / "seed-0.pt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        until = time.monotonic() + 60
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert state.exists()
    assert not (killed / "tower.json").exists()
    result = mrrag(*again)
    assert result.code == 0, result.err
    assert (killed / file).read_bytes() == (whole / file).read_bytes()
    first, second = (
        json.loads((folder / "results.json").read_text()) for folder in (whole, killed)
    )
    assert first == second


@pytest.mark.slow
def test_heads_are_standardised_by_the_training_patients_alone(mrrag, arguments, table, tmp_path):
    options = ("--epochs", 1, "--repeats", 1, "--no-final-fit")
    assert mrrag(*arguments, "--out", tmp_path, *options).code == 0
    pairs = training_pairs(read_pairs(table))
    train = split_pairs(pairs.patients, 0.15, 0.15, 0).train.tolist()
    known: dict[str, Any] = {}
    for path in (tmp_path / "training" / "features").glob("image-*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            keys = json.loads(file.metadata()["keys"])
            known |= zip(keys, file.get_tensor("features"), strict=True)
    wanted = torch.stack([known[pairs.image_keys[row]] for row in train]).mean(dim=0)
    tower: Any = load_towers(str(tmp_path))
    assert len(train) == 140
    assert torch.allclose(tower._heads["image"].mean, wanted, atol=1e-5)
    everyone = torch.stack(list(known.values())).mean(dim=0)
    assert not torch.allclose(everyone, wanted, atol=1e-5)


@pytest.mark.slow
def test_repeats_show_the_seeds_and_are_kept_together(mrrag, arguments, tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    assert mrrag(*arguments, "--out", one, "--epochs", 5, "--repeats", 1).code == 0
    result = mrrag(*arguments, "--out", three, "--epochs", 5, "--repeats", 3)
    assert result.code == 0, result.err
    assert "seed 2" in result.out
    results = json.loads((three / "results.json").read_text())
    single = json.loads((one / "results.json").read_text())
    assert [entry["seed"] for entry in results["seeds"]] == [0, 1, 2]
    assert results["seeds"][0] == single["seeds"][0]
    assert single["ensemble"] is None
    assert results["ensemble"]["image_to_report"].keys() == values_of(single)
    alone, together = load_towers(str(one)), load_towers(str(three))
    assert (alone.blocks.head, together.blocks.head) == (128, 384)
    values = [e["test"]["image_to_report"]["recall@10"]["value"] for e in results["seeds"]]
    told = results["over_seeds"]["image_to_report"]["recall@10"]
    assert told["mean"] == pytest.approx(sum(values) / 3)
    assert told["sd"] > 0
    assert single["over_seeds"]["image_to_report"]["recall@10"]["sd"] is None


def values_of(results: dict[str, Any]) -> Any:
    return results["seeds"][0]["test"]["image_to_report"].keys()


@pytest.mark.slow
def test_final_fit_has_seen_everybody_and_the_figures_come_from_before(mrrag, arguments, tmp_path):
    held, final = tmp_path / "held", tmp_path / "final"
    options = ("--epochs", 8, "--repeats", 1)
    assert mrrag(*arguments, "--out", held, *options, "--no-final-fit").code == 0
    assert mrrag(*arguments, "--out", final, *options).code == 0
    first, second = (json.loads((one / "results.json").read_text()) for one in (held, final))
    assert first["towers_identity"] != second["towers_identity"]
    assert first["seeds"] == second["seeds"]
    assert (first["worth"], first["scales"]) == (second["worth"], second["scales"])
    mean = load_towers(str(final))._heads["image"].mean
    assert not torch.allclose(mean, load_towers(str(held))._heads["image"].mean, atol=1e-6)


@pytest.mark.slow
def test_questions_teach_and_an_unknown_column_is_refused(mrrag, arguments, table, tmp_path):
    rows = list(csv.DictReader(table.open(newline="")))
    assert rows[0].keys() >= {"pair_id", "report"}
    asked = table.parent / "asked.csv"
    with asked.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "history"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "history": row["report"][:40] if number % 3 else ""})
    command, _, *rest = arguments
    options = ("--epochs", 3, "--repeats", 1, "--json")
    plain = mrrag(command, asked, *rest, "--out", tmp_path / "a", *options)
    taught = mrrag(
        command, asked, *rest, "--out", tmp_path / "b", *options, "--question-column", "history"
    )
    assert (plain.code, taught.code) == (0, 0), taught.err
    losses = [json.loads(one.out)["seeds"][0]["train_loss"] for one in (plain, taught)]
    assert losses[1] > losses[0]
    missing = mrrag(*arguments, "--out", tmp_path / "c", "--question-column", "hystory")
    assert missing.code == 2
    assert "'hystory'" in missing.err


@pytest.mark.slow
def test_towers_with_raw_features_are_ingested_and_asked_with_six_terms(
    mrrag, arguments, table, tmp_path
):
    assert mrrag(*arguments, "--out", tmp_path / "t", "--epochs", 3, "--repeats", 2).code == 0
    towers = load_towers(str(tmp_path / "t"))
    assert towers.blocks.head == 256
    assert towers.blocks.length <= 1024
    result = mrrag("ingest", table, "--store", tmp_path / "s", "--towers", tmp_path / "t")
    assert result.code == 0, result.err
    store = PairStore.open(tmp_path / "s")
    assert store.schema.blocks == towers.blocks
    assert weights_of(store).as_array(ALL_TERMS).tolist() == [1.0] * 6
    vector = next(iter(store.get(store.pair_ids()[:1]).values())).vector
    image, text = store.schema.blocks.split(vector)
    hits = store.query(image, text, weights_of(store), k=3)
    assert hits[0].pair_id == store.pair_ids()[0]
    cosines = np.divide(list(hits[0].terms.values()), towers.blocks.scales).tolist()
    assert [cosines[1], cosines[2], *cosines[4:]] == pytest.approx([1.0] * 4, abs=1e-4)


@pytest.mark.slow
def test_without_a_test_part_only_validation_is_told(mrrag, arguments, tmp_path):
    result = mrrag(*arguments, "--out", tmp_path, "--epochs", 2, "--test", 0, "--json")
    assert result.code == 0, result.err
    results = json.loads(result.out)
    assert results["over_seeds"] is None
    assert results["ensemble"] is None
    entry = results["seeds"][0]
    assert entry["test"] is None
    assert entry["train_pairs"] + entry["validation_pairs"] == 200


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(mrrag, arguments, tmp_path):
    assert mrrag(*arguments, "--out", tmp_path, "--epochs", 2).code == 0
    check_refused(mrrag(*arguments, "--out", tmp_path, "--epochs", 3), "seed-0.pt", "other pairs")


@pytest.mark.slow
def test_other_reports_in_the_same_folder_are_refused(mrrag, arguments, table, tmp_path):
    with table.open(encoding="utf-8", newline="") as handle:
        lines = handle.read().splitlines(keepends=True)[:41]
    few = table.with_name("few.csv")
    few.write_text("".join(lines), encoding="utf-8")
    changed = [few if argument == table else argument for argument in arguments]
    options = ("--out", tmp_path / "towers", *FULL, "--epochs", 1)
    assert mrrag(*changed, *options).code == 0
    with few.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[7]["report"] += " no more"
    with few.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    check_refused(mrrag(*changed, *options), "seed-0.pt", "other pairs")


@pytest.mark.slow
def test_rows_that_cannot_be_used_are_listed(mrrag, arguments, table, tmp_path):
    with table.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    rows[3]["report"] = ""
    rows[4]["image"] = "images/absent.png"
    broken = table.with_name("broken.csv")
    with broken.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    changed = [broken if argument == table else argument for argument in arguments]
    result = mrrag(*changed, "--out", tmp_path / "towers", "--epochs", 1)
    assert result.code == 0, result.err
    assert "skipped row 4" in result.out
    assert "skipped row 5" in result.out
    assert "absent.png" not in result.out + result.err
    assert "of 198 pairs" in result.out


def check_refused(result, *words) -> None:
    assert result.code == 2
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


@pytest.mark.slow
def test_pairs_without_patients_need_a_word(mrrag, arguments, table, tmp_path):
    with table.open(encoding="utf-8", newline="") as handle:
        rows = [row[:3] for row in csv.reader(handle)]
    bare = table.with_name("bare.csv")
    with bare.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)
    changed = [bare if argument == table else argument for argument in arguments]
    result = mrrag(*changed, "--out", tmp_path / "towers", "--epochs", 1)
    check_refused(result, "200 of 200 pairs name no patient", "patient_id=")
    allowed = mrrag(*changed, "--out", tmp_path / "towers", "--epochs", 1, "--one-patient-each")
    assert allowed.code == 0, allowed.err


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--image-backbone", "./no/such", "no/such"),
        ("--columns", "image=film", "film"),
        ("--same-report", "1.5", "same_report"),
    ],
)
def test_wrong_input_is_one_line(mrrag, arguments, tmp_path, option, value, word):
    result = mrrag(*arguments, "--out", tmp_path / "towers", option, value)
    check_refused(result, word)
    assert not (tmp_path / "towers" / "tower.json").exists()


@pytest.mark.parametrize(
    ("regime", "option"),
    [
        *(
            ("full", option)
            for option in (
                *(("--question-column", "history"), ("--hidden", "none"), ("--raw", 0)),
                *(("--final-fit",), ("--no-final-fit",), ("--dropout", 0.1), ("--copy-backbones",)),
            )
        ),
        *(("heads", option) for option in (("--chunk-size", 8), ("--precision", "bfloat16"))),
    ],
)
def test_an_option_of_the_other_regime_is_refused_by_name(
    mrrag, arguments, tmp_path, regime, option
):
    result = mrrag(*arguments, "--out", tmp_path / "t", "--regime", regime, *option)
    name = "--final-fit" if option[0] == "--no-final-fit" else option[0]
    assert (result.code, f"{name} cannot be given here" in result.err) == (2, True), result.err
    assert not (tmp_path / "t").exists()


def test_heads_that_cannot_be_trained_are_refused_before_anything_is_encoded(
    mrrag, arguments, table, tmp_path
):
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    few = table.with_name("few.csv")
    with few.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "report": "The same."} for row in rows[:20])
    result = mrrag(arguments[0], few, *arguments[2:], "--out", tmp_path / "t")
    assert (result.code, "two different reports" in result.err) == (2, True), result.err
    assert not (tmp_path / "t").exists()


@pytest.mark.slow
def test_heads_without_raw_features_are_told_what_they_are_worth(mrrag, arguments, tmp_path):
    out = tmp_path / "t"
    result = mrrag(*arguments, "--out", out, "--raw", 0, *HEADS, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["worth"]["queries"] == 60
    assert told["scales"] is None
    assert load_towers(str(out)).dimension == 128
    assert not load_towers(str(out)).blocks.raw_image


def test_heads_are_trained_by_one_process(mrrag, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_refused(mrrag(*arguments, "--out", tmp_path / "towers"), "one process")


def test_help_shows_an_example(mrrag):
    assert "mrrag train-towers pairs.csv" in mrrag("train-towers", "--help").out


@pytest.mark.slow
def test_other_options_in_the_same_folder_are_trained_or_refused_never_taken_from_before(
    mrrag, arguments, tmp_path
):
    out = ("--out", tmp_path / "towers", "--epochs", 2, "--repeats", 1)
    first = mrrag(*arguments, *out, "--json")
    assert first.code == 0, first.err
    wider = mrrag(*arguments, *out, "--hidden", 16, "--json")  # its final fit has its own state
    assert wider.code == 0, wider.err
    seen = [json.loads(run.out)["towers_identity"] for run in (first, wider)]
    assert seen[0] != seen[1]
    dropped = mrrag(*arguments, *out, "--dropout", 0.1)
    assert dropped.code == 2
    assert "of other pairs, settings or encoders" in dropped.err
    again = mrrag(*arguments, *out, "--json")
    assert json.loads(again.out)["towers_identity"] == seen[0]
