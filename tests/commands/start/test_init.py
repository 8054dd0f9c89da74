"""``mrrag init``: what it finds out, and that what it prints can be pasted."""

from __future__ import annotations

import csv
import json
import shlex

import pytest
import typer

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.phantom.corpus import make_corpus

REFUSALS = ("not saved: on", "is not shown to be better")
"""What learning may say of a few pairs; nothing else may go wrong."""


@pytest.fixture(scope="module")
def studies():
    return make_corpus(7, patients=24, queries=0, profiles=4).studies


@pytest.fixture
def cases(studies, tmp_path, monkeypatch):
    """A table whose columns, separator, encoding and folder of images nobody has named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRRAG_PROFILES", str(tmp_path / "profiles"))
    (tmp_path / "films").mkdir()
    with (tmp_path / "cases.csv").open("w", newline="", encoding="cp1252") as handle:
        writer = csv.writer(handle, delimiter=";")
        writer.writerow(["Film", "Befund", "Subject", "Diagnosis"])
        for number, study in enumerate(studies):
            study.image.save(tmp_path / "films" / f"film {number}.png")
            label = "effusion" if number % 2 else "none"
            row = [f"film {number}.png", f"{study.report} größer", study.patient_id, label]
            writer.writerow(row)
    return tmp_path


def printed(mrrag) -> list[list[str]]:
    result = mrrag("init", "--json")
    assert result.code == 0, result.err
    return [shlex.split(step["command"]) for step in json.loads(result.out)["steps"]]


@pytest.mark.slow
def test_what_it_prints_is_understood_and_a_store_comes_of_it(mrrag, cases):
    commands = printed(mrrag)
    assert [words[1] for words in commands] == [
        *("ingest", "mine", "train-fusion", "calibrate", "find-layers", "ask", "status")
    ]
    known = typer.main.get_command(app).commands
    for _, name, *words in commands:
        known[name].make_context(name, words)  # refuses what is no option or has no such value
    for words in commands:
        if words[1] in ("ingest", "ask", "status"):
            done = mrrag(*words[1:])
            assert done.code == 0, (words, done.err)
    assert "pairs        24" in done.out


def test_a_film_in_two_rows_is_named_with_the_way_out(mrrag, cases):
    with (cases / "cases.csv").open("a", newline="", encoding="cp1252") as handle:
        handle.write("film 0.png;ein zweiter Befund zu diesem Film;1;none\r\n")
    refused = mrrag("init", "cases.csv")
    assert refused.code == 2
    assert "Film, 1 of 24 stand in several rows" in refused.err
    assert "--columns pair_id=Film" in refused.err
    text = mrrag("init", "cases.csv", "--columns", "pair_id=Film").out
    assert "24 pairs, 1 skipped" in text
    assert "1 x an earlier row has the same pair_id" in text


@pytest.mark.slow
def test_every_command_that_it_prints_works_when_it_is_pasted(mrrag, cases):
    for words in printed(mrrag):
        done = mrrag(*words[1:])
        refused = done.code == 2 and any(refusal in done.err for refusal in REFUSALS)
        assert done.code == 0 or refused, (words, done.err)


def test_it_says_what_it_found_and_writes_nothing(mrrag, cases):
    before = sorted(cases.rglob("*"))
    result = mrrag("init", "cases.csv")
    assert result.code == 0, result.err
    assert sorted(cases.rglob("*")) == before
    text = " ".join(result.out.split())
    assert "pair_id Film (by content: the image's name" in text
    assert "report Befund (by content" in text
    assert "patient_id Subject (by name" in text
    assert "24 of 24 opened can be read (PNG 24)" in text
    assert "--encoding cp1252 --delimiter ';'" in text
    assert "synthetic" in text
    plan = json.loads(mrrag("init", "--json").out)
    assert plan["look"]["images_folder"] == "films"
    assert plan["look"]["labels"] == ["Diagnosis"]
    assert plan["towers"]["name"] == plan["model"]["name"] == "phantom"


def test_questions_beside_the_pairs_are_what_is_learned_from(mrrag, cases):
    rows = [{"qid": "1", "Image": "film 0.png", "Question": "Is it?", "Answer": "yes", "mrn": "p"}]
    (cases / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plan = json.loads(mrrag("init", "--json").out)
    assert plan["questions"] == "asked.jsonl"
    (mine,) = [step["command"] for step in plan["steps"] if " mine " in step["command"]]
    assert "mine asked.jsonl --columns question_id=qid,image=Image" in mine.replace("'", "")
    assert "--images films" in mine
    (cases / "asked.jsonl").write_text("{}", encoding="utf-8")
    refused = mrrag("init", "cases.csv", "--questions", "asked.jsonl")
    assert refused.code == 2
    assert "question_id, image, question and answer" in refused.err


def test_what_it_cannot_find_out_is_one_line_that_says_what_to_name(mrrag, cases):
    (cases / "cases.csv").rename(cases / "other.txt")
    nothing = mrrag("init")
    assert nothing.code == 2
    assert "no table of pairs lies here" in nothing.err
    assert "mrrag demo" in nothing.err
    table = cases / "t.csv"
    table.write_text("film,code\nfilm 0.png,A\nfilm 1.png,B\n", encoding="utf-8")
    lacking = mrrag("init", table)
    assert lacking.code == 2
    assert "--columns report=COLUMN" in lacking.err
    assert "film, code" in lacking.err
    wrong = mrrag("init", table, "--columns", "report=text")
    assert wrong.code == 2
    assert "no column 'text'" in wrong.err
    table.write_text("film,report\ngone.png,Clear lungs and heart.\n", encoding="utf-8")
    gone = mrrag("init", table)
    assert gone.code == 2
    assert "--images FOLDER" in gone.err
    assert "What follows" not in gone.out


def test_two_tables_are_not_chosen_between(mrrag, cases):
    (cases / "again.csv").write_bytes((cases / "cases.csv").read_bytes())
    result = mrrag("init")
    assert result.code == 2
    assert "again.csv, cases.csv" in result.err
