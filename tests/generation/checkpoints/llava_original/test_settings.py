"""Settings that are not reproduced are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.generation.checkpoints.llava_original.settings import (
    OriginalSettings,
    is_original,
)

TOWER = "model.vision_tower.vision_tower.vision_model."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_projector_type", "mlp3x_gelu"),
        ("mm_projector_type", None),
        ("image_aspect_ratio", "anyres"),
        ("image_aspect_ratio", None),
        ("mm_use_im_start_end", True),
        ("mm_vision_select_feature", "cls"),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("mm_resampler_type", "perceiver"),
        ("s2", True),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("tie_word_embeddings", True),
        ("quantization_config", {"bits": 4}),
        ("mm_vision_select_layer", None),
        ("mm_vision_tower", None),
        ("mm_hidden_size", "wide"),
        ("vocab_size", None),
        ("mm_something_new", True),
        ("hidden_act", 7),
    ],
)
def test_what_is_not_reproduced_is_named(original: Any, key: str, value: Any) -> None:
    original.config[key] = value
    with pytest.raises(ModelError, match=key):
        OriginalSettings.of(original.config)


def test_absent_settings_are_what_the_original_takes_them_for(original: Any) -> None:
    del original.config["mm_projector_type"]
    with pytest.raises(ModelError, match="mm_projector_type to 'linear'"):
        OriginalSettings.of(original.config)


def test_harmless_unknown_settings_are_told(original: Any) -> None:
    original.config |= {"frobnicate": 3, "temperature": None}
    (note,) = OriginalSettings.of(original.config).notes
    assert "['frobnicate']" in note


@pytest.mark.parametrize("absent", [True, False])
def test_a_sliding_window_limits_the_prompt(original: Any, absent: bool) -> None:
    original.config["max_position_embeddings"] = 9000
    original.config["sliding_window"] = 4096
    if absent:
        del original.config["sliding_window"]
    settings = OriginalSettings.of(original.config)
    assert settings.text_config.sliding_window is None
    assert settings.text_config.max_position_embeddings == 4096
    assert "limited" in settings.notes[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llava_mistral"}, True),
        ({"model_type": "llava_llama"}, True),
        ({"model_type": "llava", "mm_vision_tower": "x"}, True),
        ({"model_type": "llava", "text_config": {}}, False),
        ({"model_type": "llava_next"}, False),
        ({"model_type": "llava_qwen"}, False),
        ({"model_type": []}, False),
        ({}, False),
    ],
)
def test_the_layout_is_recognised(config: dict[str, Any], expected: bool) -> None:
    assert is_original(config) is expected


def test_a_converted_model_is_refused(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    original.reference.save_pretrained(folder)
    with pytest.raises(ModelError, match="not in LLaVA's original layout"):
        open_original(folder)
