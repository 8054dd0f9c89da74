"""``mrrag eval --task``: open answers, choice and reports, from data to table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.evaluate.eval import evaluate
from mrrag_llamaindex.evaluation.run.answers_file import read_predictions
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.sets import describing_set
from mrrag_llamaindex.phantom.sets.evaluation_set import PhantomSetting

ROWS = "no-retrieval,naive-rag,mcr+ifa"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    setting = PhantomSetting(patients=12, profiles=4, documents=3)
    monkeypatch.setattr(describing_set, "SETTING", setting)


def run(*arguments: object):
    app = typer.Typer(cls=console.OneLineErrors)
    app.callback()(lambda: None)
    app.command("eval")(evaluate)
    return CliRunner().invoke(app, ["eval", *map(str, (*arguments, "--device", "cpu"))])


def phantom(task: str, *arguments: object):
    few = ("--seeds", 2, "--questions", 3)
    return run("--data", "phantom", "--task", task, *few, "--methods", ROWS, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("open", {"exact_match", "token_f1", "bleu_1", "rouge_l"}),
        ("report", {"label_f1", "label_macro_f1", "rouge_l", "bleu_4"}),
    ],
)
def test_every_method_has_every_metric_with_an_interval(task, metrics):
    result = phantom(task, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["method"] for row in told["rows"]] == ROWS.split(",")
    assert told["task"] == task
    assert told["n"] == told["patients"] == 6
    for row in told["rows"]:
        assert metrics <= set(row)
        for name in metrics:
            low, high = row[f"{name}_ci"]
            assert 0 <= low <= row[name] <= high <= 1
    assert {"mcr+ifa", "naive-rag"} == {s["method"] for s in told["steps"]}


@pytest.mark.slow
def test_reports_are_written_and_gold_reports_are_in_no_file(tmp_path):
    result = phantom("report", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    header, answers = read_predictions(tmp_path / "predictions" / "naive-rag.jsonl")
    assert header.task == "report"
    for item in answers:
        assert item.text.startswith("pleural effusion: ")
        assert item.text.count(":") == len(FINDINGS)
        assert item.gold == ""
    files = [path.read_text() for path in tmp_path.glob("answers/**/*.jsonl")]
    assert files
    assert not any('"gold": "P' in text for text in files)
    first = json.loads((tmp_path / "result.json").read_text())["rows"]
    again = phantom("report", "--out", tmp_path, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == first
    refused = run("--data", "phantom", "--task", "report", "--rescore", tmp_path)
    assert refused.exit_code == 2
    assert "--predictions FILE" in refused.output


@pytest.mark.slow
def test_an_open_run_is_scored_again_as_what_it_is(tmp_path):
    first = phantom("open", "--out", tmp_path, "--json")
    assert first.exit_code == 0, first.output
    again = run("--data", "phantom", "--task", "open", "--rescore", tmp_path, "--json")
    assert again.exit_code == 0, again.output
    values = [json.loads(result.stdout)["rows"] for result in (first, again)]
    assert values[0] == values[1]
    wrong = run("--data", "phantom", "--rescore", tmp_path)
    assert wrong.exit_code == 2
    assert "add --task open" in " ".join(wrong.output.split())


@pytest.mark.slow
def test_a_range_of_documents_is_run_number_by_number(tmp_path):
    result = phantom("report", "--documents", "1-2", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "label F1 by K" in result.output
    for count in (1, 2):
        answers = read_predictions(tmp_path / f"k{count}" / "predictions" / "naive-rag.jsonl")[1]
        assert {len(item.documents) for item in answers} == {count}
    told = json.loads(phantom("report", "--documents", "1-2", "--json").stdout)
    assert set(told["by_documents"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "open", "--scoring", "cares"), "--scoring cares reads a yes or a no"),
        (("--section", "findings"), "belong to --task report"),
        (("--task", "report", "--clinical", "bert"), "clinical metric 'bert'"),
        (("--task", "choice"), "nothing to ask for --task choice"),
        (("--documents", "6-1"), "--documents is '6-1'"),
        (("--documents", "0"), "--documents is '0'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, words):
    result = run("--data", "phantom", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


@pytest.fixture
def choices(tmp_path) -> Path:
    """Write PMC-VQA's layout in the phantom's words: which of two findings is there."""
    made = make_corpus(11, patients=20, queries=12, profiles=4)
    head = ["Figure_path", "Question", "Answer", "Choice A", "Choice B"]
    (tmp_path / "images").mkdir()
    for name, people in (("test", made.queries), ("train", made.studies)):
        rows = []
        for n, item in enumerate(people):
            study = getattr(item, "study", item)
            image = f"PMC{name}{n}_F1.png"
            study.image.save(tmp_path / "images" / image)
            finding = FINDINGS[n % 8].name
            options = [f"no {finding}", f"shows {finding}"]
            answer = options[study.findings[n % 8]]
            rows.append([image, f"Is there {finding}?", answer, *options])
        with (tmp_path / f"{name}.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([head, *rows])
    return tmp_path


@pytest.mark.slow
def test_choice_is_answered_by_likelihood_and_by_letter(choices, tmp_path):
    data = ("--data", "pmc-vqa", "--root", choices, "--task", "choice")
    models = ("--model", "phantom", "--towers", "phantom", "--validation", 0)
    rows = ("--methods", "no-retrieval,naive-rag,opera,mcr+ifa", "--out", tmp_path / "out")
    result = run(*data, *models, *rows, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["main"] == "likelihood"
    known = {row["method"]: row for row in told["rows"]}
    assert "likelihood" not in known["opera"]
    assert "letter" in known["opera"]
    for name in ("no-retrieval", "naive-rag", "mcr+ifa"):
        assert 0 <= known[name]["likelihood"] <= 1
        assert 0 <= known[name]["likelihood_sum"] <= 1
    answers = read_predictions(tmp_path / "out" / "predictions" / "naive-rag.jsonl")[1]
    assert {item.gold for item in answers} <= {"A", "B"}
    assert all(len(item.likelihoods) == 2 for item in answers)


def test_answers_of_another_model_to_open_questions(tmp_path):
    root = tmp_path / "rad"
    root.mkdir()
    base = {"image_name": "a.jpg", "question": "Where?", "answer_type": "OPEN"}
    rows = [{"qid": 1, "answer": "left", **base}, {"qid": 2, "answer": "The right lung", **base}]
    (root / "testset.json").write_text(json.dumps(rows))
    table = tmp_path / "answers.csv"
    table.write_text("question_id,text\n1,Left.\n2,left lung\n")
    given = ("--predictions", table, "--name", "other", "--task", "open", "--json")
    result = run("--data", "vqa-rad", "--root", root, *given)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["exact_match"] == 0.5
    assert row["token_f1"] == pytest.approx((1 + 0.5) / 2)
