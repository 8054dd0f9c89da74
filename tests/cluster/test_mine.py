"""``mrrag mine --ray`` writes the file that ``mrrag mine`` writes, byte for byte."""

from __future__ import annotations

import json
import shutil

import pytest

from mrrag_llamaindex.cluster.sharded_log import Shard
from mrrag_llamaindex.learning.mining.records import TRAINING_FILE
from tests.cluster.test_ingest import BY_ONE, BY_RAY, run

QUESTIONS = ("mine", "--data", "phantom", "--limit", 20, "--candidates", 4, "--model", "phantom")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray", "one_thread")]


def mine(out, *options):
    code, text, err = run(*QUESTIONS, "--out", out, "--json", *options)
    assert code == 0, err
    return json.loads(text)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "plain.jsonl"
    mine(out)
    return out


def test_the_file_is_the_same_and_nothing_else_is_left(plain, tmp_path):
    report = mine(tmp_path / "spread.jsonl", *BY_RAY)
    assert (report["mined"], report["resumed"], report["skipped"]) == (20, 0, [])
    assert (tmp_path / "spread.jsonl").read_bytes() == plain.read_bytes()
    assert not (tmp_path / "spread.jsonl.shards").exists()


@pytest.mark.slow
def test_what_one_process_has_begun_workers_end_and_the_other_way_round(plain, tmp_path):
    out = tmp_path / "begun.jsonl"
    lines = plain.read_bytes().splitlines(keepends=True)
    for kept, options in ((11, BY_ONE), (14, ())):
        out.write_bytes(b"".join(lines[: 1 + kept]))
        report = mine(out, *options)
        assert (report["mined"], report["resumed"]) == (20 - kept, kept)
        assert out.read_bytes() == plain.read_bytes()


@pytest.mark.slow
def test_shards_that_a_killed_run_has_left_are_not_made_again(plain, tmp_path):
    out = tmp_path / "killed.jsonl"
    header, records = TRAINING_FILE.read(plain)
    names = tuple(record.question_id for record in records)
    left = tmp_path / "killed.jsonl.shards"
    # The first shard was not begun, the second is half done and torn, the third is whole. What
    # stands in them is told from what would be made by a confidence that no model gives.
    for start, count, size in ((8, 3, 8), (16, 4, 4)):
        made = tuple(range(start, start + count))
        shard = Shard(
            left / f"{start:09}-{size}.jsonl",
            TRAINING_FILE,
            header,
            names[start : start + count],
            made,
        )
        with shard.opened() as (log, items):
            assert items == list(made)
            log.append([records[n] for n in made])
    marked = left / "000000016-4.jsonl"
    marked.write_text(marked.read_text().replace('"unaided": 0.', '"unaided": 0.0000'))
    with (left / "000000008-8.jsonl").open("a") as torn:
        torn.write('{"question_id": "x')
    mine(out, *BY_ONE)
    expected = plain.read_text().splitlines()
    written = out.read_text().splitlines()
    assert written[:17] == expected[:17]
    for line, other in zip(written[17:], expected[17:], strict=True):
        marks = other.replace('"unaided": 0.', '"unaided": 0.0000')
        assert json.loads(line) == json.loads(marks)
    assert written[17:] != expected[17:]
    assert not left.exists()


def test_shards_of_another_run_are_not_mixed_in(plain, tmp_path):
    out = tmp_path / "other.jsonl"
    left = tmp_path / "other.jsonl.shards"
    left.mkdir()
    shutil.copy(plain, left / "000000008-8.jsonl")
    code, _, err = run(*QUESTIONS, "--out", out, "--seed", 1, *BY_ONE)
    assert code == 2
    assert "000000008-8.jsonl was begun with seed 0" in err.splitlines()[-1]


@pytest.mark.slow
def test_questions_that_cannot_be_used_are_listed_alike(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    from mrrag_llamaindex.phantom.corpus import make_corpus, write_corpus

    corpus = make_corpus(3, patients=12, queries=4, profiles=4)
    table = write_corpus(tmp_path, corpus.studies)
    assert run("ingest", table, "--store", tmp_path / "store", "--towers", "phantom")[0] == 0
    rows = ["question_id,image,question,answer,patient_id"]
    for number, query in enumerate(corpus.queries):
        query.study.image.save(tmp_path / f"q{number}.png")
        rows.append(f"q{number},q{number}.png,{query.question},{query.answer},new{number}")
    rows.insert(2, "torn,torn.png,Is there edema?,yes,p")
    rows.insert(3, f"long,q0.png,{'Is there edema? ' * 4000},yes,p")
    (tmp_path / "questions.csv").write_text("\n".join(rows) + "\n")
    reports = []
    for name, options in (("plain", ()), ("spread", BY_ONE)):
        code, out, err = run(
            *("mine", tmp_path / "questions.csv", "--store", tmp_path / "store", "--json"),
            *("--model", "phantom", "--out", tmp_path / f"{name}.jsonl", *options),
        )
        assert code == 0, err
        reports.append(json.loads(out) | {"seconds": None, "out": None})
    assert reports[0] == reports[1]
    assert [row["question_id"] for row in reports[0]["skipped"]] == ["torn", "long"]
    assert (tmp_path / "plain.jsonl").read_bytes() == (tmp_path / "spread.jsonl").read_bytes()
