"""Fusion weights: validation, and a file that knows which towers it was learned on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.mcr.weights import HEAD_TERMS
from mrrag_llamaindex.mcr.weights_file import load_weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
def test_weight_that_is_no_finite_number_is_refused(value) -> None:
    with pytest.raises(ValueError, match="image_image"):
        FusionWeights(1.0, value, 1.0)


def test_all_weights_zero_is_refused_and_a_fourth_alone_is_not() -> None:
    with pytest.raises(ValueError, match="zero"):
        FusionWeights(0, 0, 0)
    with pytest.raises(ValueError, match="text_image"):
        FusionWeights(1, 1, 1, math.nan)
    assert FusionWeights(0, 0, 0, 2).as_array(HEAD_TERMS).tolist() == [0.0, 0.0, 0.0, 2.0]


def test_negative_weights_are_allowed() -> None:
    assert FusionWeights(1, -0.3, 2).as_array().tolist() == [1.0, -0.3, 2.0]


def test_file_round_trip_keeps_the_weights(tmp_path) -> None:
    path = tmp_path / "weights.json"
    weights = FusionWeights(0.1 + 0.2, -1 / 3, 2.0)
    weights.save(path, towers_identity="a@1")
    assert FusionWeights.load(path, towers_identity="a@1") == weights
    assert FusionWeights.load(path) == weights
    assert [item.name for item in tmp_path.iterdir()] == ["weights.json"]


def test_weights_of_other_towers_are_refused(tmp_path) -> None:
    path = tmp_path / "weights.json"
    FusionWeights().save(path, towers_identity="a@1")
    with pytest.raises(InputError, match=r"'a@1'.*'b@2'"):
        FusionWeights.load(path, towers_identity="b@2")


def test_handwritten_weights_fit_any_towers() -> None:
    text = '{"image_text": 1, "image_image": 0, "text_text": 2}'
    assert FusionWeights.from_json(text, towers_identity="b@2") == FusionWeights(1, 0, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON"),
        ("[1, 2, 3]", "object"),
        ('{"image_text": 1, "image_image": 0}', "text_text"),
        ('{"image_text": 1, "image_image": 0, "text_text": 1, "imge": 2}', "imge"),
        ('{"image_text": NaN, "image_image": 0, "text_text": 1}', "image_text"),
        ('{"image_text": 1, "image_image": 0, "text_text": 1, "format": "other"}', "other"),
        ('{"image_text": 1, "image_image": 0, "text_text": 1, "image_text": 2}', "twice"),
        ('{"image_text": 1, "image_image": 0, "text_text": ' + "9" * 400 + "}", "400 digits"),
        ('{"image_text": 1, "image_image": 0, "text_text": ' + "[" * 9999, "too deeply"),
    ],
)
def test_file_that_is_no_weights_is_refused_with_the_reason(text, said) -> None:
    with pytest.raises(InputError, match=said):
        FusionWeights.from_json(text)


def test_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        FusionWeights.load(tmp_path / "none.json")


def test_json_names_the_three_weights() -> None:
    data = json.loads(FusionWeights(1, 2, 3).to_json(towers_identity="a@1"))
    assert (data["image_text"], data["image_image"], data["text_text"]) == (1, 2, 3)
    assert data["towers_identity"] == "a@1"


def test_fourth_weight_is_in_the_file_only_where_there_is_one(tmp_path) -> None:
    assert "text_image" not in FusionWeights(1, 2, 3).to_json()
    path = tmp_path / "weights.json"
    weights = FusionWeights(1, 2, 3, -0.125)
    weights.save(path, towers_identity="a@1")
    assert json.loads(path.read_text())["text_image"] == -0.125
    assert load_weights(path, towers_identity="a@1") == weights


def test_file_is_loaded_as_what_it_holds(tmp_path) -> None:
    path = tmp_path / "weights.json"
    FusionWeights(1, 2, 3).save(path)
    assert load_weights(path, towers_identity="a@1") == FusionWeights(1, 2, 3)
    path.write_text('{"image_text": 1, "image_image": 0, "text_text": 2}')
    assert load_weights(path) == FusionWeights(1, 0, 2)
    QueryGatedWeights.untrained(FusionWeights(1, 2, 3), 4).save(path, towers_identity="a@1")
    gate = load_weights(path, towers_identity="a@1")
    assert isinstance(gate, QueryGatedWeights)
    assert (gate.base, gate.hidden_weight.shape) == (FusionWeights(1, 2, 3), (1, 8))
    with pytest.raises(InputError, match="mrrag-gated"):
        FusionWeights.load(path)


@pytest.mark.parametrize("kind", ["global", "gated"])
def test_learned_file_of_other_towers_is_refused(tmp_path, kind) -> None:
    path = tmp_path / "weights.json"
    weights = FusionWeights()
    made = weights if kind == "global" else QueryGatedWeights.untrained(weights, 4)
    made.save(path, towers_identity="a@1")
    with pytest.raises(InputError, match=r"'a@1'.*'b@2'.*train the fusion again"):
        load_weights(path, towers_identity="b@2")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "JSON"), ("[]", "object"), ('{"format": "other"}', "other")]
)
def test_file_of_no_kind_is_refused(tmp_path, text, said) -> None:
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_weights(path)
    with pytest.raises(InputError, match=r"none\.json"):
        load_weights(tmp_path / "none.json")


def test_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "weights.json"
    FusionWeights(1, 2, 3).save(path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        FusionWeights(4, 5, 6).save(path)
    assert FusionWeights.load(path) == FusionWeights(1, 2, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_file_keeps_its_old_contents_until_the_new_ones_are_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "weights.json"
    FusionWeights(1, 2, 3).save(path)
    seen = []
    real = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((FusionWeights.load(path), FusionWeights.load(self)))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    FusionWeights(4, 5, 6).save(path)
    assert seen == [(FusionWeights(1, 2, 3), FusionWeights(4, 5, 6))]


def test_global_weights_are_the_same_for_every_question() -> None:
    weights = FusionWeights(1, 2, 3)
    assert weights.weights_for(np.ones(4), None) is weights
