"""`mrrag noise`: points, figure and sentences; what is wrong in one line."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from mrrag_llamaindex.commands.console import OneLineErrors
from mrrag_llamaindex.commands.evaluate.noise import noise
from mrrag_llamaindex.phantom.sets import noise_trials

FIELDS = {"policy", "scores", "noise", "accuracy", "ci", "noise_attention"}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Drawing pictures is what takes time; a small corpus has every part of a large one."""
    monkeypatch.setattr(noise_trials, "_PROFILES", 4)
    monkeypatch.setattr(noise_trials, "_LOOK_ALIKES", 8)
    monkeypatch.setattr(noise_trials, "_FUSION_PATIENTS", 60)
    monkeypatch.setattr(noise_trials, "_FUSION_QUERIES", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run():
    app = typer.Typer(cls=OneLineErrors)
    app.command("noise")(noise)
    app.callback()(lambda: None)

    def call(*arguments: object):
        return CliRunner().invoke(app, ["noise", *(str(argument) for argument in arguments)])

    return call


@pytest.mark.slow
def test_json_holds_every_point_and_the_figure(run, tmp_path):
    out = tmp_path / "noise"
    result = run("--documents", 2, "--count", 8, "--out", out, "--policies", "ifa", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    points = told["points"]
    assert all(point.keys() >= FIELDS for point in points)
    found = {(p["policy"], p["scores"], p["adversarial"], p["noise"]) for p in points}
    assert found == {
        (policy, scores, adversarial, level)
        for policy in ("off", "ifa")
        for scores in ("true", "mcr")
        for adversarial in (False, True)
        for level in (0.0, 0.5, 1.0)
    }
    for point in points:
        assert point["ci"][0] <= point["accuracy"] <= point["ci"][1]
        assert point["noise"] != 0.0 or point["noise_attention"] == 0.0
    assert told["figure"] == told["figures"][0]
    assert sorted(str(path) for path in out.glob("*.png")) == sorted(told["figures"])
    assert told["figures"] == [str(out / "noise.png")]
    assert told["tuning"]["seed"] == 5000
    assert told["fusion"]["seed"] == 6000
    assert {row["policy"] for row in told["recovered"]} == {"ifa"}


def test_settings_are_chosen_on_studies_of_another_seed(run, tmp_path, monkeypatch):
    drawn, real = [], noise_trials.draw_noise_trials

    def draw(seed, count, **how):
        drawn.append((seed, count))
        return real(seed, count, **how)

    monkeypatch.setattr(noise_trials, "draw_noise_trials", draw)
    result = run(
        *("--documents", 2, "--count", 4, "--seed", 3, "--out", tmp_path, "--policies", "off"),
        *("--scores", "true", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert drawn == [(noise_trials.VALIDATION + 3, 2), (3, 4)]
    assert json.loads(result.stdout)["tuning"]["seed"] == noise_trials.VALIDATION + 3


@pytest.mark.slow
def test_sentences_say_loss_and_what_is_won_back(run, tmp_path):
    result = run(
        *("--documents", 2, "--count", 6, "--out", tmp_path, "--policies", "off,hard-mask"),
        *("--scores", "true"),
    )
    assert result.exit_code == 0, result.stderr
    assert "plain RAG loses" in result.stdout
    assert "hard-mask  true" in result.stdout
    assert "MCR's weights" not in result.stdout  # they were not needed
    assert "figure" in result.stdout


def test_without_matplotlib_the_numbers_stand(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    result = run(
        *("--documents", 2, "--count", 4, "--out", tmp_path, "--policies", "off"),
        *("--scores", "true", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["figure"] is None
    assert "no picture" in result.stderr
    refused = run("--picture", tmp_path / "noise.png")
    assert refused.exit_code == 2
    assert "mrrag-llamaindex[plot]" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--policies", "ifa,magic"), "magic"),
        (("--scores", "guess"), "guess"),
        (("--documents", 3), "odd"),
        (("--scores", ""), "--scores"),
    ],
)
def test_wrong_options_are_one_line(run, arguments, named):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert named in result.stderr
