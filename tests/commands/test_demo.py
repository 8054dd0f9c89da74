"""``mrrag demo``: the whole path, offline, with a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(mrrag, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    result = mrrag("demo", "--out", out, "--json")
    assert result.code == 0, result.err
    return out, json.loads(result.out)


def test_json_has_the_agreed_shape(demo):
    _, shown = demo
    assert {"question", "answer", "p_yes", "sources", "seconds", "unsteered", "picture"} <= set(
        shown
    )
    assert {"answer", "p_yes"} <= set(shown["unsteered"])
    assert shown["synthetic"] is True


def test_steering_is_applied_and_changes_the_probability(demo):
    _, shown = demo
    assert shown["steering"]["applied"]
    assert shown["p_yes"] != shown["unsteered"]["p_yes"]


def test_picture_is_an_image_with_something_on_it(demo):
    _, shown = demo
    picture = Image.open(shown["picture"])
    assert min(picture.size) > 500
    assert len(set(picture.convert("L").resize((64, 64)).getdata())) > 30


def test_store_persists_and_can_be_asked(mrrag, demo):
    out, shown = demo
    result = mrrag(
        *("ask", "--store", shown["store"], "--image", out / "seed-1" / "query.png"),
        *("--model", "phantom", "--explain", "--json", shown["question"]),
    )
    again = json.loads(result.out)
    assert again["p_yes"] == pytest.approx(shown["p_yes"], abs=1e-6)
    assert again["sources"] == shown["sources"]


def test_text_output_says_synthetic_and_shows_both_answers(mrrag, demo):
    out, _ = demo
    result = mrrag("demo", "--out", out)
    assert result.code == 0, result.err
    for words in ("synthetic", "answer", "without IFA", "picture", "not a medical device"):
        assert words in result.out


@pytest.mark.parametrize("command", ["demo", "ingest", "ask"])
def test_help_shows_an_example(mrrag, command):
    result = mrrag(command, "--help")
    assert result.code == 0
    assert f"Example: mrrag {command}" in result.out


def test_a_real_question_is_answered_by_real_cases(mrrag, tmp_path):
    told = mrrag("demo", "--real", "--out", tmp_path, "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert answer["by"] == "vote"
    assert answer["synthetic"] is False
    assert "VQA-RAD (CC0" in answer["origin"]
    assert "computed beforehand" in answer["vectors"]
    assert Path(answer["picture"]).stat().st_size > 10_000
    shown = mrrag("demo", "--real", "--out", tmp_path)
    for words in (answer["question"], "no model was asked", "computed beforehand", "not a medical"):
        assert words in shown.out
