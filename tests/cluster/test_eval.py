"""``mrrag eval --ray`` leaves the folder that ``mrrag eval`` leaves, byte for byte."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cluster.test_ingest import BY_ONE, BY_RAY, run

pytestmark = pytest.mark.slow

QUESTIONS = ("eval", "--data", "phantom", "--seeds", 1, "--questions", 24, "--json")
METHODS = ("--methods", "vote,naive-rag,mcr+ifa")


def evaluate(out, *options):
    code, text, err = run(*QUESTIONS, *METHODS, "--out", out, *options)
    assert code == 0, err
    return json.loads(text)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.ray
@pytest.mark.usefixtures("ray", "one_thread")
def test_answers_tables_and_mined_records_are_the_same_and_resumed(tmp_path):
    plain, spread = tmp_path / "plain", tmp_path / "spread"
    expected = evaluate(plain)
    result = evaluate(spread, *BY_RAY)
    assert json.dumps(result).replace(str(spread), str(plain)) == json.dumps(expected)
    assert files(spread) == files(plain)
    # Half of the answers are gone, of one file the end: as after a kill.
    answers = sorted((spread / "answers").rglob("*.jsonl"))
    for path in answers[::2]:
        path.unlink()
    lines = answers[1].read_bytes().splitlines(keepends=True)
    answers[1].write_bytes(b"".join(lines[:6]) + lines[6][:9])
    shutil.rmtree(spread / "predictions")
    evaluate(spread, *BY_ONE)
    assert {name.partition("/")[0] for name in files(spread)} >= {"answers", "predictions"}
    for name, content in files(plain).items():
        if name.startswith("answers/") and name != answers[1].relative_to(spread).as_posix():
            assert files(spread)[name] == content


def test_what_workers_cannot_do_is_refused_by_name(tmp_path):
    for options, words in (
        (METHODS, "--ray needs --out"),
        (
            ("--methods", "vote", "--out", tmp_path / "out"),
            "--ray cannot be given here: vote asks no model",
        ),
        (("--rescore", tmp_path), "here none is: leave it out"),
    ):
        code, _, err = run(*QUESTIONS, "--ray", *options)
        assert (code, words in err) == (2, True), err
