"""``mrrag eval``: the phantom, or a copy of a data set, in; one table out; or one line, exit 2."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.evaluate.eval import evaluate
from mrrag_llamaindex.evaluation.methods.registry import USUAL, row_named
from mrrag_llamaindex.evaluation.run.answers_file import PredictionWriter, read_predictions
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile_store import keep_profile
from mrrag_llamaindex.learning.towers.settings import for_heads
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.sets import evaluation_set
from tests.evaluation.data import layout_files

LLAVA = Path(evaluation_set.__file__).parents[1] / "weights" / "llava"
FAST = ("--device", "cpu")


def run(*arguments: object):
    app = typer.Typer(cls=console.OneLineErrors)
    app.callback()(lambda: None)
    app.command("eval")(evaluate)
    return CliRunner().invoke(app, ["eval", *map(str, (*arguments, *FAST))])


drawn_once = functools.cache(evaluation_set.phantom_set)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A corpus of 24 studies: what is tested here is the command, not the phantom."""
    setting = evaluation_set.PhantomSetting(patients=24, profiles=6, documents=4)
    monkeypatch.setattr(evaluation_set, "SETTING", setting)
    monkeypatch.setattr(evaluation_set, "phantom_set", drawn_once)


def phantom(*arguments: object):
    return run("--data", "phantom", "--seeds", 2, "--questions", 4, *arguments)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Write a tiny data set in the layout of one of the three, in the phantom's words."""
    made = make_corpus(11, patients=20, queries=12, profiles=4)

    def write(data: str, *more: dict, without_image: int | None = None) -> Path:
        root = tmp_path_factory.mktemp(data)
        asked = []
        for n, query in enumerate(made.queries):
            answer = "Yes." if query.answer else "No, it is not seen."
            row = layout_files.question_row(
                data, 40 + n, n, answer, question=f"{query.question}\n<image>",
                report=query.study.report,
            )  # fmt: skip
            asked.append(row)
        reports = [
            layout_files.report_row(data, n + 1, report=study.report)
            for n, study in enumerate(made.studies)
        ]
        # A query's own study is in the store, too: it must not be found.
        reports += [
            layout_files.report_row(data, 40 + n, report=query.study.report)
            for n, query in enumerate(made.queries)
        ]
        layout_files.write(root, data, [*asked, *more], reports)
        shown = [*range(1, 21), *(40 + n for n in range(12) if n != without_image)]
        layout_files.draw(root, data, shown)
        return root

    return write


@pytest.mark.slow
def test_json_is_what_was_promised():
    further = ("--compare", "mcr+ifa,no-retrieval", "--compare", "mcr, naive-rag")
    further = (*further, *further)
    result = phantom("--methods", "no-retrieval,naive-rag,mcr,mcr+ifa", "--json", *further)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["data"], told["n"]) == ("phantom", 8)
    assert told["majority"]["label"] in ("yes", "no")
    assert 0.5 <= told["majority"]["accuracy"] <= 1
    assert [row["method"] for row in told["rows"]] == [
        "no-retrieval",
        "naive-rag",
        "mcr",
        "mcr+ifa",
    ]
    for row in told["rows"]:
        low, high = row["accuracy_ci"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert {"macro_f1", "precision", "recall", "invalid_rate"} <= set(row)
    assert [(s["method"], s["baseline"]) for s in told["steps"]] == [
        ("mcr", "naive-rag"),
        ("mcr+ifa", "mcr"),
        ("mcr+ifa", "naive-rag"),
        ("naive-rag", "no-retrieval"),
        ("mcr+ifa", "no-retrieval"),
    ]
    assert not [note for note in told["notes"] if "is not told" in note]
    assert told["not_run"] == []


@pytest.mark.slow
def test_every_method_has_a_row(tmp_path):
    result = phantom("--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    # Four training questions are too few to learn a policy from.
    run = [name for name in USUAL if not row_named(name).learns_policy]
    assert [row["method"] for row in told["rows"]] == run
    assert [item["method"] for item in told["not_run"]] == ["seka", "ada-seka", "iti"]
    assert all("too few to learn from" in item["reason"] for item in told["not_run"])
    assert {path.stem for path in (tmp_path / "out" / "predictions").glob("*.jsonl")} == {*run}
    for name in ("table.md", "table.csv", "table.tex", "result.json", "accuracy.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    said = (tmp_path / "out" / "table.md").read_text()
    assert "mcr+ifa minus mcr" in said
    assert "published settings" in said


@pytest.mark.slow
def test_a_vote_needs_no_model(monkeypatch, tmp_path):
    monkeypatch.setattr("mrrag_llamaindex.generation.checkpoints.loading.load_model", None)
    result = run(
        "--data", "phantom", "--seeds", 2, "--questions", 40, "--methods", "vote", "--json",
        "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [row["method"] for row in told["rows"]] == ["vote"]
    assert told["n"] == 80
    assert len(told["tuning"][0]["tries"]) == 12
    assert told["rows"][0]["accuracy"] > told["majority"]["accuracy"]
    assert "no model was asked" in told["notes"]
    header, answers = read_predictions(tmp_path / "predictions" / "vote.jsonl")
    assert header.model == "none"
    assert all(item.text in ("yes", "no") and item.documents for item in answers)
    refused = phantom("--methods", "vote", "--model", "phantom")
    assert refused.exit_code == 2
    assert "asks no model" in refused.stderr


def test_validation_and_test_studies_are_different_seeds():
    tests = {evaluation_set.phantom_set(n, questions=1).questions[0].patient_id for n in range(2)}
    assert {evaluation_set.FIT_SEED, evaluation_set.TUNE_SEED}.isdisjoint(range(1000))
    assert evaluation_set.FIT_SEED != evaluation_set.TUNE_SEED
    assert len(tests) == 1  # names repeat from seed to seed, so pooling must tell them apart


@pytest.mark.slow
@pytest.mark.parametrize("data", ["iu-xray", "mimic-cxr", "fairvlmed"])
def test_a_copy_runs_to_a_table(copies, tmp_path, data):
    more = [
        layout_files.question_row(data, 45, 5, "Yes."),  # id 5 is there already
        layout_files.question_row(data, 46, 90, "The lungs are hazy."),
        layout_files.question_row(data, 47, 91, "Maybe"),
    ]
    root = copies(data, *more, without_image=3)
    out = tmp_path / "out"
    result = run(
        "--data", data, "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "no-retrieval,naive-rag,factmm-rag,mcr,mcr+ifa", "--out", out, "--json",
        "--max-new-tokens", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["data"] == data
    # 12 questions less one without its image; 30% of 11 patients are kept for validation.
    assert told["n"] == 8
    assert told["problems"] == {
        "duplicate id": 1,
        "missing image": 1,
        "missing image of a pair": 1,  # that question's own
        "free-text answer": 1,
        "label neither yes nor no": 1,
    }
    assert [row["method"] for row in told["rows"]] == [
        "no-retrieval",
        "naive-rag",
        "mcr",
        "mcr+ifa",
    ]
    assert told["not_run"][0]["method"] == "factmm-rag"
    assert "finding labels" in told["not_run"][0]["reason"]
    for name in ("naive-rag", "mcr"):
        for item in read_predictions(out / "predictions" / f"{name}.jsonl")[1]:
            own = int(item.question_id) + 40
            assert f"study-{own}" not in item.documents
            assert item.documents


def test_finding_labels_let_factmm_run(copies, tmp_path):
    root = copies("iu-xray")
    made = make_corpus(11, patients=20, queries=12, profiles=4)
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["pair_id", *(finding.name for finding in FINDINGS)])
        for n, study in enumerate(made.studies):
            values = [
                int(study.findings[place]) if place in study.mentioned else ""
                for place in range(len(FINDINGS))
            ]
            writer.writerow([f"study-{n + 1}", *values])
    result = run(
        "--data", "iu-xray", "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "factmm-rag", "--facts", table, "--validation", 0, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["n"] == 12
    assert [row["method"] for row in told["rows"]] == ["factmm-rag"]


def test_another_models_answers_stand_in_the_table(copies, tmp_path):
    root = copies("fairvlmed")
    answers = tmp_path / "flamingo.csv"
    with answers.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["question_id", "text"], *((n, "Yes, it is.") for n in range(12))])
    given = (
        "--data", "fairvlmed", "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "naive-rag", "--json",
    )  # fmt: skip
    result = run(*given, "--predictions", answers, "--name", "med-flamingo")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    row = told["rows"][1]
    assert row["method"] == "med-flamingo"
    share = told["majority"]["accuracy"]
    assert row["accuracy"] in (pytest.approx(share), pytest.approx(1 - share))
    # Answers to validation questions are not scored, and are not lost in silence.
    assert told["n"] + told["problems"]["unknown id"] == 12


@pytest.mark.slow
def test_predictions_for_the_pooled_phantom(tmp_path):
    answers = tmp_path / "other.jsonl"
    with answers.open("w") as handle:
        for seed in range(2):
            for item in evaluation_set.phantom_set(seed, questions=4).questions:
                name = f"seed{seed}/{item.question_id}"
                handle.write(json.dumps({"question_id": name, "text": item.answer}) + "\n")
    result = phantom(
        "--methods", "no-retrieval", "--predictions", answers, "--name", "oracle", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rows"][1]["accuracy"] == 1


@pytest.mark.slow
def test_a_second_run_goes_on_from_the_first(tmp_path):
    given = ("--methods", "naive-rag,mcr", "--out", tmp_path, "--json")
    first = phantom(*given)
    files = {path: path.read_bytes() for path in (tmp_path / "answers").rglob("*.jsonl")}
    second = phantom(*given)
    assert second.exit_code == 0, second.stderr
    assert json.loads(first.stdout)["rows"] == json.loads(second.stdout)["rows"]
    assert {path: path.read_bytes() for path in files} == files
    assert len(files) == 4


@pytest.mark.slow
def test_scoring_rule_changes_the_reading_alone(tmp_path):
    given = ("--methods", "no-retrieval", "--out", tmp_path, "--json")
    assert json.loads(phantom(*given).stdout)["rule"] == "leading"
    assert json.loads(phantom(*given, "--scoring", "cares").stdout)["rule"] == "cares"


@pytest.fixture
def profiles(monkeypatch, tmp_path):
    """Let layers be kept for the phantom, in a folder of this test's own."""
    monkeypatch.setenv("MRRAG_PROFILES", str(tmp_path / "profiles"))
    loaded = load_model("phantom", device="cpu")
    assert loaded.critical_layers != (2,)
    return lambda: keep_profile(loaded, (2,), "found by a test")


@pytest.mark.slow
def test_layers_that_find_layers_kept_are_used_and_named(profiles):
    given = ("--methods", "mcr,mcr+ifa", "--json")
    shipped = phantom(*given)
    assert "from the profile in the model's folder" in shipped.stderr
    kept = profiles()
    assert kept.is_file()
    found = phantom(*given)
    assert found.exit_code == 0, found.stderr
    (note,) = [line for line in found.stderr.splitlines() if "critical layers" in line]
    assert note == "note: critical layers 2: as mrrag find-layers found on this model"
    told, before = json.loads(found.stdout), json.loads(shipped.stdout)
    assert told["critical_layers"] == [2] != before["critical_layers"]
    assert note.removeprefix("note: ") in told["notes"]


@pytest.mark.slow
def test_the_tuning_grid_holds_the_kept_layers(profiles):
    profiles()
    result = run(
        "--data", "phantom", "--seeds", 1, "--questions", 30, "--methods", "mcr+ifa", "--json"
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (tuned,) = json.loads(result.stdout)["tuning"]
    assert sum("layers=(2,)" in item["setting"] for item in tuned["tries"]) == 4


@pytest.mark.slow
def test_a_run_goes_on_under_the_same_layers_alone(profiles, tmp_path):
    given = ("--methods", "no-retrieval,mcr+ifa", "--out", tmp_path / "out")
    assert phantom(*given).exit_code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")}
    header = read_predictions(tmp_path / "out" / "predictions" / "mcr+ifa.jsonl")[0]
    kept = profiles()
    result = phantom(*given)
    assert result.exit_code == 2
    layers = header.settings["critical_layers"]
    assert f"critical_layers {layers}, and this run has [2]" in " ".join(result.stderr.split())
    assert {path: path.read_bytes() for path in files} == files
    kept.unlink()
    assert phantom(*given).exit_code == 0


@pytest.mark.slow
def test_layers_of_a_model_without_a_profile_are_called_a_stand_in(tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(LLAVA, folder)
    (folder / "mrrag_profile.json").unlink()
    result = phantom("--model", folder, "--methods", "no-retrieval")
    assert result.exit_code == 0, result.stderr
    assert "the middle third: none were found on this model" in result.stderr


@pytest.mark.slow
def test_a_finished_run_is_scored_again_without_a_model(tmp_path, monkeypatch):
    first = phantom("--methods", "no-retrieval,naive-rag", "--out", tmp_path / "run", "--json")
    told = json.loads(first.stdout)
    path = tmp_path / "run" / "predictions" / "naive-rag.jsonl"
    header, answers = read_predictions(path)
    path.unlink()
    # The two rules disagree on these: "NO" is a no, and CARES calls it a yes.
    with PredictionWriter(path, header) as writer:
        writer.append([replace(item, text="NO") for item in answers])
    monkeypatch.setattr("mrrag_llamaindex.generation.checkpoints.loading.load_model", None)
    monkeypatch.setattr("mrrag_llamaindex.towers.loading.load_towers", None)
    shares = {}
    for rule in ("leading", "cares"):
        result = run(
            "--data", "phantom", "--rescore", tmp_path / "run", "--scoring", rule, "--json",
            "--out", tmp_path / rule,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        again = json.loads(result.stdout)
        assert (again["rule"], again["n"]) == (rule, told["n"])
        assert (tmp_path / rule / "table.tex").is_file()
        assert again["critical_layers"] == told["critical_layers"]
        assert any("no model was asked" in note for note in again["notes"])
        shares[rule] = again["rows"][1]["accuracy"]
        if rule == "leading":
            assert again["rows"][0] == {
                **told["rows"][0],
                "versus": again["rows"][0]["versus"],
            }
    assert shares["leading"] + shares["cares"] == pytest.approx(1)


@pytest.mark.slow
def test_scoring_again_refuses_what_it_cannot_mean(tmp_path):
    assert phantom("--methods", "no-retrieval", "--out", tmp_path / "run").exit_code == 0
    again = ("--data", "phantom", "--rescore", tmp_path / "run")
    for more, message in (
        (("--out", tmp_path / "run"), "whose tables it would replace"),
        (("--methods", "mcr"), "holds no answers of mcr"),
        (("--model", "phantom"), "leave data and models out"),
        (("--rescore", tmp_path / "nowhere"), "nowhere holds no answers"),
    ):
        result = run(*again, *more)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())


def test_reports_that_another_system_retrieved_are_not_passed_over_in_silence(copies):
    row = layout_files.question_row("iu-xray", 46, 90, "No.", reference_reports=["Other. Text."])
    root = copies("iu-xray", row)
    result = run(
        "--data", "iu-xray", "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "no-retrieval", "--validation", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "1 questions bring reports that another system retrieved" in result.stdout


def test_vqa_rad_without_pairs_runs_what_retrieves_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for number, answer in enumerate(("Yes", "no", "left lung")):
        Image.new("L", (32, 32), 60 * number).save(tmp_path / "images" / f"s{number}.jpg")
        rows.append(
            {
                "qid": number,
                "image_name": f"s{number}.jpg",
                "question": "Is it there?",
                "answer": answer,
                "answer_type": "CLOSED ",
            }
        )
    (tmp_path / "test.json").write_text(json.dumps(rows))
    result = run(
        "--data", "vqa-rad", "--root", tmp_path, "--towers", "phantom", "--model", "phantom",
        "--methods", "no-retrieval,naive-rag,mcr", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [row["method"] for row in told["rows"]] == ["no-retrieval"]
    assert {item["reason"] for item in told["not_run"]} == {"there are no pairs to retrieve from"}
    assert told["problems"] == {"free-text answer": 1}


def test_an_image_that_cannot_be_read_is_listed_and_not_scored(copies):
    root = copies("fairvlmed")
    bad = root / layout_files.FOLDERS["fairvlmed"] / layout_files.SHAPES["fairvlmed"].format(n=44)
    bad.write_bytes(b"no picture")
    result = run(
        "--data", "fairvlmed", "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "no-retrieval", "--validation", 0, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["n"] == 11
    assert told["problems"] == {"unusable row": 2}  # the question, and its own pair
    assert {"'4'", "'study-44'"} <= {
        item.split(":")[0].split()[-1] for item in told["problem_list"]
    }
    assert told["left_out"] == []


@pytest.mark.slow
def test_people_are_told_all_of_it():
    result = phantom("--methods", "naive-rag,mcr,mcr+ifa")
    assert result.exit_code == 0, result.stderr
    assert "always " in result.stdout
    assert "mcr minus naive-rag" in result.stdout
    assert "fusion weights: equal" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "iu-xray"), "needs --root"),
        (("--data", "iu-xray", "--root", "nowhere", "--towers", "phantom"), "nowhere"),
        (("--data", "iu-xray", "--root", "tests", "--towers", "phantom"), "--question-file"),
        (("--data", "phantom", "--root", "x"), "leave --root"),
        (("--data", "phantom", "--methods", "mcr,magic"), "'magic' is not known"),
        (("--data", "phantom", "--name", "a"), "0 --predictions and 1 --name"),
        (("--data", "phantom", "--compare", "mcr"), "no pair of two rows: A,B"),
        (("--data", "phantom", "--compare", "mcr,magic"), "there is no row 'magic'"),
        (
            ("--data", "phantom", "--methods", "mcr,mcr+ifa", "--compare", "mcr,vote"),
            "vote is not among the rows of this run (mcr, mcr+ifa): add it to --methods",
        ),
        (
            ("--data", "phantom", "--predictions", "a.csv", "--name", "mcr"),
            "'mcr' is the name of another row",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.slow
def test_vqa_rad_by_vote_needs_no_model_and_no_network(monkeypatch, tmp_path):
    """On the shipped cases, with their vectors; one epoch of heads is enough to see the table."""
    monkeypatch.setattr("mrrag_llamaindex.generation.checkpoints.loading.load_model", None)
    monkeypatch.setattr("mrrag_llamaindex.evaluation.votes.gate.STEPS", 3)
    monkeypatch.setattr(defaults, "ENSEMBLE", 1)
    short = replace(for_heads(), max_epochs=1)
    monkeypatch.setattr("mrrag_llamaindex.evaluation.votes.features.for_heads", lambda: short)
    result = run("--data", "vqa-rad", "--json", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [row["name"] for row in told["rows"]] == [
        *("image_text", "image_image", "text_text", "text_image", "raw_image", "raw_text"),
        *("equal", "learned", "gated"),
    ]
    assert told["closed"] > 50
    assert told["opened"] > 50
    for row in told["rows"]:
        low, high = row["closed"]["ci"]
        assert low <= row["closed"]["value"] <= high
    pairs = {(item["name"], item["minus"]) for item in told["differences"]}
    assert {("learned", "equal"), ("learned", told["best_single"])} <= pairs
    assert any("computed beforehand" in note for note in told["notes"])
    assert "| learned |" in (tmp_path / "votes.md").read_text()
    assert json.loads((tmp_path / "votes.json").read_text()) == told


def test_vqa_rad_by_vote_refuses_what_it_does_not_read():
    for more, message in (
        (("--questions", 5), "answers by vote"),
        (("--text-encoder", "x"), "needs --root"),
    ):
        result = run("--data", "vqa-rad", *more)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    result = phantom("--image-encoder", "x")
    assert result.exit_code == 2
    assert "belong to --data vqa-rad" in " ".join(result.stderr.split())


def test_answers_of_another_model_are_scored_without_images_towers_or_model(
    copies, tmp_path, monkeypatch
):
    root = copies("iu-xray", layout_files.question_row("iu-xray", 46, 90, "The lungs are hazy."))
    shutil.rmtree(root / layout_files.FOLDERS["iu-xray"])
    monkeypatch.setattr("mrrag_llamaindex.generation.checkpoints.loading.load_model", None)
    monkeypatch.setattr("mrrag_llamaindex.towers.loading.load_towers", None)
    answers = tmp_path / "flamingo.csv"
    with answers.open("w", newline="") as handle:
        writer = csv.writer(handle)
        numbers = [*range(12), 90]
        writer.writerows([["question_id", "text"], *((n, "Hard to tell.") for n in numbers)])
    given = (
        *("--data", "iu-xray", "--root", root, "--json"),
        *("--predictions", answers, "--name", "med-flamingo"),
    )
    strict = run(*given)
    assert strict.exit_code == 0, strict.stderr
    told = json.loads(strict.stdout)
    assert told["n"] == 12  # all of them: nothing is tuned
    assert told["rows"][0]["invalid_rate"] == 1
    assert told["problems"] == {"free-text answer": 1, "unknown id": 1}
    published = run(*given, "--scoring", "cares")
    told = json.loads(published.stdout)
    assert told["n"] == 13
    assert told["rows"][0]["invalid_rate"] == 0
    assert "reads 1 of 13 gold answers" in " ".join(published.stderr.split())
    assert any("13 of 13 answers of med-flamingo" in note for note in told["notes"])
    refused = run(*given, "--facts", answers)
    assert refused.exit_code == 2
    assert "scored alone" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_questions_in_words_that_the_towers_do_not_know_are_asked(copies):
    more = layout_files.question_row("iu-xray", 47, 90, "No.", question="?!")
    root = copies("iu-xray", more)
    layout_files.draw(root, "iu-xray", [47])
    result = run(
        "--data", "iu-xray", "--root", root, "--towers", "phantom", "--model", "phantom",
        "--methods", "naive-rag,mcr", "--validation", 0, "--json", "--max-new-tokens", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["n"] == 13
    assert told["problems"]["text that the towers cannot read"] == 1
    # It is in the table and counts as wrong: the phantom cannot read it either.
    assert {item["identifier"] for item in told["left_out"]} == {"90"}
