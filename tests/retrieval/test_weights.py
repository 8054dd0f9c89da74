"""Fusion weights: validation, and a file that knows which towers it was learned on."""

from __future__ import annotations

import json
import math

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.retrieval.score import FusionWeights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True])
def test_weight_that_is_no_finite_number_is_refused(value) -> None:
    with pytest.raises(ValueError, match="image_image"):
        FusionWeights(1.0, value, 1.0)


def test_three_zero_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        FusionWeights(0, 0, 0)


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
