"""A folder for vLLM: its names, the same weights, and everything else that belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.conversion.vllm import (
    convert_for_vllm,
    misnamed,
    vllm_name,
)
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.processors import load_processor
from tests.generation.checkpoints.llava_original.original_checkpoint import (
    make_original,
    sentencepiece_model,
    write_clip,
)
from tests.tiny.families import FAMILIES, write

TOWERS = ("llava", "llava-llama", "llava_next", "gemma3")
KNOWN = ("llava", "llava-llama", "llava_next", "qwen2_5_vl", "gemma3", "mistral", "llama")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("name", KNOWN)
def test_every_tensor_is_there_under_the_name_that_vllm_looks_for(name, tmp_path):
    source = write(name, tmp_path / "source")
    convert_for_vllm(source, tmp_path / "out", shard_bytes=100_000)
    before, after = tensors(source), tensors(tmp_path / "out")
    moved = {key.replace("vision_tower.", "vision_tower.vision_model."): key for key in before}
    assert after.keys() == moved.keys()
    assert all(torch.equal(after[key], before[old]) for key, old in moved.items())
    assert any(".vision_model." in key for key in after) == (name in TOWERS)
    model_type = json.loads((source / "config.json").read_text())["model_type"]
    assert not misnamed(after, model_type)


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*KNOWN}))
def test_a_family_that_was_not_compared_in_vllm_is_refused_by_name(name, tmp_path):
    source = write(name, tmp_path / "source")
    with pytest.raises(ModelError, match=f"is of type '{name}', which was not compared in vLLM"):
        convert_for_vllm(source, tmp_path / "out")


def test_names_of_older_and_newer_files_end_alike():
    layers = "encoder.layers.1.mlp.fc1.weight"
    for prefix in ("vision_tower.", "vision_tower.vision_model."):
        assert vllm_name(prefix + layers, "llava") == f"vision_tower.vision_model.{layers}"
        saved = vllm_name(f"model.{prefix}{layers}", "gemma3")
        assert saved == f"model.vision_tower.vision_model.{layers}"
    assert vllm_name("language_model.model.vision_tower.x", "llava").startswith("language_model")


@pytest.mark.parametrize("name", KNOWN)
def test_transformers_loads_it_as_the_same_model(name, tmp_path):
    source = write(name, tmp_path / "source")
    convert_for_vllm(source, tmp_path / "out")
    one, other = (load_model(str(f), device="cpu") for f in (source, tmp_path / "out"))
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert one.profile == other.profile


def test_the_phantom_keeps_its_profile(tmp_path):
    told = convert_for_vllm(defaults.PHANTOM, tmp_path / "out", dtype="float32")
    loaded = load_model(str(told.folder), device="cpu")
    assert loaded.layers_are_known
    assert loaded.critical_layers == load_model("phantom", device="cpu").critical_layers
    assert json.loads((told.folder / "config.json").read_text())["dtype"] == "float32"
    assert all(value.dtype == torch.float32 for value in tensors(told.folder).values())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_original_layout_goes_there_in_one_step(tmp_path, suffix):
    write_clip(tmp_path / "clip")
    made = make_original(tmp_path / "clip", sentencepiece_model())
    source = made.write(tmp_path / "source", suffix=suffix)
    told = convert_for_vllm(source, tmp_path / "out", allow_pickle=suffix == "bin")
    assert told.vision_source == "checkpoint"
    assert not misnamed(tensors(told.folder), "llava")
    one = load_model(str(source), device="cpu", allow_pickle=suffix == "bin").model
    other = load_model(str(told.folder), device="cpu").model
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.slow
def test_a_faulty_processor_is_written_as_it_is_corrected(tmp_path):
    source = write("llava", tmp_path / "source")
    file = source / "processor_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps({**stated, "patch_size": 7}))
    told = convert_for_vllm(source, tmp_path / "out")
    assert any("patch_size" in note for note in told.notes)
    _, processor, notes = load_processor(Checkpoint.find(str(told.folder)))
    assert processor.patch_size == 14
    assert not notes


def test_a_family_that_was_never_compared_is_refused(tmp_path):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'gpt2'.*llava_next"):
        convert_for_vllm(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickles_and_damaged_weights_are_refused(tmp_path):
    source = write("llava", tmp_path / "source")
    (file,) = source.glob("*.safetensors")
    whole = load_file(file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="download it again"):
        convert_for_vllm(source, tmp_path / "out")
    file.unlink()
    torch.save(whole, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        convert_for_vllm(source, tmp_path / "out")
    save_file(whole, file, metadata={"format": "pt"})
    assert convert_for_vllm(source, tmp_path / "out").tensors == len(whole)
