"""``mrrag mine``: a table or the phantom in, training records out, or one line and exit 2."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.learn.mine import mine
from mrrag_llamaindex.commands.progress import time_left
from mrrag_llamaindex.learning.mining.records import read_training_set
from mrrag_llamaindex.phantom.corpus import make_corpus


def run(*arguments: object):
    app = typer.Typer(cls=console.OneLineErrors)
    app.callback()(lambda: None)
    app.command()(mine)
    return CliRunner().invoke(app, ["mine", *map(str, arguments)])


@pytest.fixture(scope="module")
def table(corpus, tmp_path_factory) -> Path:
    """Three questions about new patients, and one of a patient who is in the store."""
    folder = tmp_path_factory.mktemp("questions")
    made = make_corpus(7, patients=24, queries=3, profiles=6)
    rows = []
    for query in made.queries:
        query.study.image.save(folder / f"{query.study.pair_id}.png")
        answer = "Yes." if query.answer else "No."
        name = query.study.pair_id
        rows.append([name, f"{name}.png", query.question, answer, query.study.patient_id])
    own = made.studies[0]
    own.image.save(folder / "own.png")
    rows.append(["own", "own.png", "Is there edema?", "no", own.patient_id])
    with (folder / "questions.csv").open("w", newline="") as handle:
        head = ["question_id", "image", "question", "answer", "patient_id"]
        csv.writer(handle).writerows([head, *rows])
    return folder / "questions.csv"


def arguments(table, corpus, out, *options: object) -> tuple[object, ...]:
    named = ("--store", corpus.store, "--model", "phantom", "--candidates", 5, "--out", out)
    return (table, *named, *options)


def test_table_is_mined_without_the_own_patient(table, corpus, tmp_path):
    out = tmp_path / "d.jsonl"
    result = run(*arguments(table, corpus, out, "--json"))
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["mined"], told["resumed"], told["skipped"]) == (4, 0, [])
    found = read_training_set(out)
    assert told["usable"] == len(found.usable) > 0
    assert [len(record.pair_ids) for record in found.records] == [5] * 4
    own = found.records[3]
    assert own.patient_id is not None
    assert not any(pair.startswith(own.patient_id) for pair in own.pair_ids)
    assert found.header.model.startswith("phantom@")
    assert found.header.settings["candidates"] == 5


def test_second_run_resumes_and_says_so(table, corpus, tmp_path):
    out = tmp_path / "d.jsonl"
    run(*arguments(table, corpus, out))
    before = out.read_bytes()
    result = run(*arguments(table, corpus, out))
    assert result.exit_code == 0
    assert "0 questions mined" in result.stdout
    assert "4 before" in result.stdout
    assert out.read_bytes() == before


def test_other_settings_or_model_on_the_same_file_are_refused(table, corpus, tmp_path):
    out = tmp_path / "d.jsonl"
    run(*arguments(table, corpus, out))
    before = out.read_bytes()
    result = run(*arguments(table, corpus, out, "--negatives", 2))
    assert result.exit_code == 2
    assert "negatives 4" in result.stderr
    out.write_bytes(before.replace(b"phantom@", b"another@", 1))
    result = run(*arguments(table, corpus, out))
    assert result.exit_code == 2
    assert "model 'another@" in result.stderr


def test_bad_rows_are_listed_and_a_table_of_nothing_else_fails(corpus, table, tmp_path):
    bad = tmp_path / "q.csv"
    bad.write_text(
        "question_id,image,question,answer,patient_id\n1,nowhere.png,Edema?,yes,p\n2,a.png,E?,yes,\n"
    )
    result = run(*arguments(bad, corpus, tmp_path / "d.jsonl"))
    assert result.exit_code == 2
    assert "(question_id '1')" in result.stdout
    assert "none of the 2 questions could be used" in result.stderr
    assert "nowhere" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "--data phantom"),
        (("--data", "phantom", "--store", "s"), "its own questions"),
        (("nothing.csv", "--store", "STORE"), "nothing.csv"),
        (("--store", "nothing"), "--data phantom"),
        (("TABLE", "--store", "STORE", "--pool", "all"), "pool"),
        (("TABLE", "--store", "STORE", "--weights", "none.json"), "none.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(table, corpus, tmp_path, options, word):
    named = {"STORE": corpus.store, "TABLE": table}
    result = run(
        *(named.get(item, item) for item in options),
        *("--model", "phantom", "--out", tmp_path / "d.jsonl"),
    )
    assert result.exit_code == 2
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "d.jsonl").exists()


@pytest.mark.slow
def test_cut_off_in_a_line_and_started_again_gives_the_same_file(table, corpus, tmp_path):
    out = tmp_path / "d.jsonl"
    run(*arguments(table, corpus, out))
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:100])
    result = run(*arguments(table, corpus, out, "--json"))
    assert json.loads(result.stdout)["resumed"] == 1
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_phantom_brings_its_own_questions(tmp_path):
    out = tmp_path / "d.jsonl"
    options = ("--data", "phantom", "--model", "phantom", "--limit", 2, "--candidates", 6)
    result = run(*options, "--out", out)
    assert result.exit_code == 0, result.stderr
    records = read_training_set(out).records
    assert [record.patient_id for record in records] == ["query-0000", "query-0001"]
    assert all(0 <= value <= 1 for record in records for value in record.confidence)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((10.0, 0, 100, 0), "time left unknown"),
        ((10.0, 50, 100, 50), "time left unknown"),
        ((10.0, 60, 100, 50), "about 40 s left"),
        ((600.0, 10, 20, 0), "about 10 min left"),
    ],
)
def test_estimate_counts_only_what_this_run_did(numbers, expected):
    assert time_left(*numbers) == expected


@pytest.mark.slow
def test_labels_make_records_without_a_model(corpus, table, tmp_path, mrrag):
    with corpus.table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    asked = corpus.folder / "labelled.csv"
    with asked.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0], "edema"])
        writer.writeheader()
        writer.writerows({**row, "edema": str("edema" in row["report"])} for row in rows)
    store, out = tmp_path / "s", tmp_path / "d.jsonl"
    assert mrrag("ingest", asked, "--store", store, "--towers", "phantom").code == 0
    options = ("--store", store, "--out", out)
    for wrong, word in (
        (("--labels", "nothing"), "'nothing'"),
        (("--labels", ","), "--labels is ',' and names no column"),
        (("--labels", "edema, edema"), "--labels names 'edema' twice"),
        (("--labels", "edema", "--question", "{histroy}: what is it?"), "'histroy'"),
        (("--labels", "edema", "--model", "phantom"), "--model cannot be given here"),
        (("--labels", "edema", table), "questions cannot be given here"),
        (("--labels", "edema", "--data", "phantom"), "--data cannot be given here"),
        (("--labels", "edema", "--limit", 3), "--limit cannot be given here"),
        (("--question", "Why?"), "--labels only"),
    ):
        result = mrrag("mine", *options, *wrong)
        assert (result.code, word in result.err) == (2, True), result.err
    # None of these has begun anything that the right one would have to go on with.
    result = mrrag("mine", *options, "--labels", "edema", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["mined"] == len(rows)
    found = read_training_set(out)
    assert found.header.model == "labels"
    assert found.header.settings["template"] == "What is the {label}?"
