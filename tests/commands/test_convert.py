"""``mrrag convert``: a folder that transformers loads, or one line and exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import torch
import transformers

from tests.generation.checkpoints.llava_original.original_checkpoint import (
    make_original,
    sentencepiece_model,
    write_clip,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    clip = tmp_path_factory.mktemp("clip")
    write_clip(clip)
    return make_original(clip, sentencepiece_model())


@pytest.fixture(scope="module")
def source(made, tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("original"), shards=2)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def check_refused(result, *words) -> None:
    assert result.code == 2
    assert result.out == ""
    (line,) = lines(result.err)
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_converted_folder_is_the_same_model(mrrag, made, source, tmp_path):
    result = mrrag("convert", source, tmp_path / "out")
    assert result.code == 0, result.err
    assert "vision tower: checkpoint" in result.out
    assert "note: " in result.out  # whether the tower differs from CLIP
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    for name, tensor in made.reference.state_dict().items():
        stored = model.state_dict()[name]
        rows = made.config["vocab_size"] if "embed_tokens" in name or "lm_head" in name else None
        assert torch.equal(stored[:rows], tensor[:rows]), name
    asked = mrrag("doctor", tmp_path / "out", "--device", "cpu", "--json")
    assert json.loads(asked.out)["layout"] == "transformers"
    assert asked.code == 0, asked.err


def test_json_tells_what_was_written(mrrag, source, tmp_path):
    result = mrrag("convert", source, tmp_path / "out", "--dtype", "bfloat16", "--json")
    assert result.code == 0, result.err
    (only,) = lines(result.out)
    told = json.loads(only)
    assert told["folder"] == str(tmp_path / "out")
    assert told["vision_source"] == "checkpoint"
    weights = [tmp_path / "out" / name for name in told["files"]]
    assert told["nbytes"] < sum(f.stat().st_size for f in weights) < told["nbytes"] + 20_000
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize("choice", ["clip", "PATH"])
def test_vision_tower_of_clip_is_taken_on_request(mrrag, made, source, tmp_path, choice):
    clip = made.config["mm_vision_tower"]
    asked = clip if choice == "PATH" else choice
    result = mrrag("convert", source, tmp_path / "out", "--vision-tower", asked, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["vision_source"] == f"clip: {clip}"


@pytest.mark.slow
def test_pickles_need_leave(mrrag, made, tmp_path):
    source = made.write(tmp_path / "original", suffix="bin")
    check_refused(mrrag("convert", source, tmp_path / "out"), "--allow-pickle")
    assert not (tmp_path / "out").exists()
    allowed = mrrag("convert", source, tmp_path / "out", "--allow-pickle")
    assert allowed.code == 0, allowed.err
    assert (tmp_path / "out" / "config.json").is_file()


def test_filled_folder_is_left_alone(mrrag, source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_refused(mrrag("convert", source, tmp_path), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_source_that_is_not_there(mrrag, tmp_path):
    check_refused(mrrag("convert", "./no/such", tmp_path / "out"), "no/such")


def test_model_that_needs_no_conversion(mrrag, tmp_path):
    from mrrag_llamaindex import defaults

    result = mrrag("convert", defaults.PHANTOM_FOLDER / "llava", tmp_path / "out")
    check_refused(result, "no conversion")


def test_for_vllm_any_model_is_taken(mrrag, source, tmp_path):
    for model in (source, "phantom"):
        out = tmp_path / Path(model).name
        result = mrrag("convert", model, out, "--for", "vllm", "--json")
        assert result.code == 0, result.err
        (told,) = (json.loads(line) for line in lines(result.out))
        with safetensors.safe_open(out / told["files"][0], "pt") as file:
            towers = [name for name in file.keys() if name.startswith("vision_tower.")]  # noqa: SIM118
        assert towers
        assert all(name.startswith("vision_tower.vision_model.") for name in towers)
    check_refused(mrrag("convert", "phantom", out, "--for", "vllm"), "not an empty folder")


def test_unknown_dtype(mrrag, source, tmp_path):
    result = mrrag("convert", source, tmp_path / "out", "--dtype", "int8")
    check_refused(result, "int8", "bfloat16")


def test_help_shows_an_example(mrrag):
    assert "mrrag convert llava-med" in mrrag("convert", "--help").out
