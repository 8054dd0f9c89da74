"""``mrrag find-layers``: curve, profile and pictures from synthetic studies or a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.commands.console import OneLineErrors
from mrrag_llamaindex.commands.learn.find_layers import find_layers
from mrrag_llamaindex.phantom.corpus import make_corpus


@pytest.fixture(scope="module")
def command():
    app = typer.Typer(cls=OneLineErrors)
    app.callback()(lambda: None)
    app.command()(find_layers)

    def run(*arguments: object):
        result = CliRunner().invoke(app, ["find-layers", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture(scope="module", autouse=True)
def profiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRRAG_PROFILES", str(folder))
        yield folder


@pytest.fixture(scope="module")
def made(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("layers")
    code, stdout, stderr = command("--out", out, "--examples", 20, "--device", "cpu", "--json")
    assert code == 0, stderr
    return out, json.loads(stdout)


def test_json_has_the_agreed_shape(made):
    _, found = made
    assert {"layers", "curve", "seconds"} <= set(found)
    assert {"ours", "naive"} == set(found["seconds"])
    assert found["seconds"]["naive"] > 0
    for point in found["curve"]:
        assert {"edge", "layer", "change", "ci"} <= set(point)
        assert point["ci"][0] <= point["change"] <= point["ci"][1]
    edges = {point["edge"] for point in found["curve"]}
    assert {"documents->question", "image->question", "documents->last"} <= edges
    assert {f"document-{n}->question+last" for n in range(1, 5)} <= edges
    assert found["controls"]["empty"] == 0.0
    assert found["controls"]["full"] != 0.0


def test_profile_is_used_by_the_model_from_then_on(made, profiles):
    out, found = made
    assert Path(found["kept"]).parent == profiles
    for llm in (
        MRRAGLLaVA(model="phantom"),
        MRRAGLLaVA(model="phantom", profile=str(out / "profile.json")),
    ):
        assert list(llm.engine.loaded.critical_layers) == found["layers"]
        assert llm.engine.loaded.profile.identity == found["identity"]
        assert "attention knockout" in llm.engine.loaded.profile.note


def test_curves_are_drawn(made):
    from PIL import Image

    _, found = made
    assert [Path(path).name for path in found["figures"]] == ["layers.png"]
    assert found["figure"] == found["figures"][0]
    for path in found["figures"]:
        assert len(Image.open(path).convert("L").resize((64, 64)).getcolors()) > 10


@pytest.fixture(scope="module")
def table(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    with (folder / "questions.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["question_id", "image", "question", "answer", "patient_id"])
        for query in make_corpus(7, patients=24, queries=16, profiles=6).queries:
            name = query.study.pair_id
            query.study.image.save(folder / f"{name}.png")
            answer = "Yes." if query.answer else "no"
            writer.writerow([name, f"{name}.png", query.question, answer, query.study.patient_id])
        writer.writerow(["open", f"{name}.png", query.question, "on the left", "somebody"])
        writer.writerow(["gone", "gone.png", query.question, "yes", "somebody else"])
    return folder / "questions.csv"


@pytest.mark.slow
def test_a_table_with_a_store_is_searched_and_what_is_left_out_is_listed(
    command, corpus, table, tmp_path
):
    arguments = ("--questions", table, "--store", corpus.store, "--out", tmp_path / "out")
    code, stdout, stderr = command(*arguments, "--documents", 3, "--device", "cpu", "--json")
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["examples"]["asked"] == 16
    assert {item["question_id"] for item in found["left_out"]} == {"open", "gone"}
    assert max(point["n"] for point in found["curve"]) == found["examples"]["answered_correctly"]
    assert "document-3->question+last" in {point["edge"] for point in found["curve"]}
    assert "gone.png" not in stdout + stderr


@pytest.mark.slow
def test_text_says_layers_controls_price_and_files(command, tmp_path):
    code, stdout, stderr = command("--out", tmp_path, "--examples", 14, "--device", "cpu")
    assert code == 0, stderr
    for words in ("critical layers", "halves", "an empty block changes 0.0%", "timed", "profile"):
        assert words in stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "phantom", "--questions", "q.csv"),
        ("--questions", "q.csv"),
        ("--store", "store"),
        ("--model", "nowhere"),
        ("--window", "9", "--examples", "8", "--device", "cpu"),
    ],
)
def test_what_cannot_be_done_is_one_line(command, arguments, tmp_path):
    code, stdout, stderr = command(*arguments, "--out", tmp_path)
    assert code == 2
    assert stdout == ""
    assert len([line for line in stderr.strip().splitlines() if line.startswith("error")]) == 1
