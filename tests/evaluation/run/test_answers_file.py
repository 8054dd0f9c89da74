"""Answers on disk: a killed run goes on, another run is refused, and other models' files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.prediction import Prediction, PredictionHeader
from mrrag_llamaindex.evaluation.report.metrics import score
from mrrag_llamaindex.evaluation.run.answers_file import (
    ANSWERS_FILE,
    PredictionWriter,
    read_predictions,
)
from mrrag_llamaindex.evaluation.run.predictions_file import read_predictions_file
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

HEADER = PredictionHeader("mcr", "digest", "phantom", 3, {"k": 4})


def made(count, start=0) -> list[Prediction]:
    return [
        Prediction("mcr", f"q{n}", f"p{n}", "yes", "Yes,\u2028\nü", 0.75, 0.25, ("a", "b"))
        for n in range(start, start + count)
    ]


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "deep" / "mcr.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(2))
        writer.append(made(1, 2))
    assert read_predictions(path) == (HEADER, made(3))
    assert score(read_predictions(path)[1]).accuracy == 1.0


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_killed_run_goes_on_behind_the_last_whole_line(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(3))
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(read_predictions(path)[1]) == 2
    with PredictionWriter(path, HEADER) as writer:
        assert writer.keys == {"q0", "q1"}
        assert path.read_bytes().endswith(b"\n")  # nothing of the torn line stays behind
        writer.append(made(2, 2))
    assert read_predictions(path)[1] == made(4)


@pytest.mark.slow
def test_a_kill_at_any_byte_leaves_a_file_that_goes_on(tmp_path):
    path = tmp_path / "a.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(2))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with PredictionWriter(path, HEADER) as writer:
            assert len(writer.keys) == max(0, whole[:length].count(b"\n") - 1)
            writer.append([item for item in made(2) if item.question_id not in writer.keys])
        assert path.read_bytes() == whole


def test_torn_header_is_begun_again_and_another_file_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(ANSWERS_FILE.header_line(HEADER)[:25])
    PredictionWriter(path, HEADER).close()
    assert read_predictions(path) == (HEADER, [])
    for text in ("notes", "notes\n", '{"a": 1}\n'):
        path.write_text(text)
        with pytest.raises(InputError):
            PredictionWriter(path, HEADER)
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "x"}, "data 'digest'"),
        ({"seed": 4}, "seed 3"),
        ({"model": "x"}, "model 'phantom'"),
        ({"settings": {"k": 5}}, "k 4, and this run has 5"),
        ({"settings": {}}, "k 4"),
    ],
)
def test_other_settings_are_refused_and_the_file_stays(tmp_path, change, words):
    path = tmp_path / "a.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(1))
    before = path.read_bytes()
    with pytest.raises(InputError, match=words):
        PredictionWriter(path, replace(HEADER, **change))
    assert path.read_bytes() == before
    # And the lock is free again.
    PredictionWriter(path, HEADER).close()


def test_settings_that_json_changes_are_still_the_same(tmp_path):
    header = replace(HEADER, settings={"layers": (1, 2)})
    for _ in range(2):
        PredictionWriter(tmp_path / "a.jsonl", header).close()


def test_one_writer_at_a_time_and_no_answer_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        with pytest.raises(InputError, match="another process"):
            PredictionWriter(path, HEADER)
        writer.append(made(1))
        with pytest.raises(InputError, match="twice"):
            writer.append(made(2))
        with pytest.raises(InputError, match="not of 'other'"):
            writer.append([replace(made(1, 5)[0], method="other")])
    assert read_predictions(path)[1] == made(1)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"question_id": "x"}', json.dumps({"question_id": "x", "gold": "maybe"})]
)
def test_broken_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(ANSWERS_FILE.header_line(HEADER) + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_predictions(path)
    path.write_text(ANSWERS_FILE.header_line(HEADER) + ANSWERS_FILE.line(made(1)[0]) * 2)
    with pytest.raises(InputError, match="line 3"):
        read_predictions(path)


def test_files_of_earlier_releases_hold_answers_of_yes_or_no_and_go_on(tmp_path):
    path = tmp_path / "a.jsonl"
    header = {"mrrag": "predictions", "version": 1, "method": "mcr", "data": "digest"}
    header |= {"model": "phantom", "seed": 3, "settings": {"k": 4}}
    row = {"question_id": "q0", "patient_id": "p0", "gold": "yes", "text": "Yes,\u2028\nü"}
    row |= {"p_yes": 0.75, "p_no": 0.25, "documents": ["a", "b"]}
    path.write_text(json.dumps(header) + "\n" + json.dumps(row) + "\n")
    assert read_predictions(path) == (HEADER, made(1))
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(1, 1))
    assert read_predictions(path)[1] == made(2)


def test_answers_of_another_task_are_not_gone_on_with(tmp_path):
    path = tmp_path / "a.jsonl"
    with PredictionWriter(path, HEADER) as writer:
        writer.append(made(1))
    with pytest.raises(InputError, match="task 'yes-no', and this run has 'choice'"):
        PredictionWriter(path, replace(HEADER, task="choice"))
    other = replace(made(1)[0], task="choice", gold="B", likelihoods=((-1.5, 2), (-0.5, 1)))
    with PredictionWriter(tmp_path / "b.jsonl", replace(HEADER, task="choice")) as writer:
        writer.append([other])
        with pytest.raises(InputError, match="not of 'yes-no'"):
            writer.append(made(1, 1))
    assert read_predictions(tmp_path / "b.jsonl")[1] == [other]


@pytest.mark.parametrize("change", [{"gold": "maybe"}, {"p_yes": 1.5}, {"text": None}])
def test_prediction_checks_itself(change):
    with pytest.raises(InputError):
        replace(made(1)[0], **change)


def small_set() -> EvaluationSet:
    questions = tuple(GoldQuestion(str(n), "x.png", "Q?", "yes", f"p{n}") for n in (1, 2))
    return EvaluationSet("tiny", questions, (), {"1": "yes", "2": "no"})


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_answers_of_another_model(tmp_path, kind):
    path = tmp_path / f"flamingo.{kind}"
    rows = [(2, "No."), (9, "Yes"), (1, "")]
    if kind == "csv":
        path.write_text("question_id,said\n" + "".join(f"{n},{text}\n" for n, text in rows))
    else:
        path.write_text("\n".join(json.dumps({"question_id": n, "said": t}) for n, t in rows))
    found, problems = read_predictions_file(path, small_set(), "flamingo", {"text": "said"})
    assert found == [
        Prediction("flamingo", "1", "p1", "yes", ""),
        Prediction("flamingo", "2", "p2", "no", "No."),
    ]
    assert [(item.kind, "9" in item.name) for item in problems] == [("unknown id", True)]


def test_answers_of_another_run_of_ours(tmp_path):
    path = tmp_path / "mcr.jsonl"
    answers = [Prediction("mcr", name, "x", "yes", "No.", 0.1, 0.9) for name in ("1", "2")]
    with PredictionWriter(path, HEADER) as writer:
        writer.append(answers)
    found, problems = read_predictions_file(path, small_set(), "earlier mcr")
    assert problems == ()
    assert [(item.method, item.gold, item.text) for item in found] == [
        ("earlier mcr", "yes", "No."),
        ("earlier mcr", "no", "No."),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("question_id,text\n1,Yes\n", "no answer to 1 of the 2 questions.*'2'"),
        ("question_id,text\n1,Yes\n2,No\n1,Yes\n", "row 3 answers '1' a second time"),
        ("question_id,text\n1,Yes\n2,No\n9,a\n9,b\n", "row 4 answers '9'"),
        ("question_id,answer\n1,Yes\n", "no field 'text'.*text=COLUMN"),
        ("question_id,text\n,Yes\n", "row 1 has no question_id"),
        ("question_id,text\n1,Yes,x\n", "row 1 has 3 cells"),
        ("", "empty"),
    ],
)
def test_file_that_does_not_fit_the_questions_is_refused(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_predictions_file(path, small_set(), "m")
