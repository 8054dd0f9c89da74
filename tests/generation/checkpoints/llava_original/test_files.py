"""Faults of the weight files by name, and nothing of a checkpoint is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original

TOWER = "model.vision_tower.vision_tower.vision_model."


def test_a_missing_shard_is_named(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003.safetensors is not in the folder"):
        open_original(folder)


def test_a_truncated_shard_is_named(original: Any, tmp_path: Path) -> None:
    shard = original.write(tmp_path) / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model-00002-of-00003.safetensors is damaged"):
        open_original(tmp_path)


def test_a_truncated_pickle_is_named(original: Any, tmp_path: Path) -> None:
    shard = original.write(tmp_path, suffix="bin") / "pytorch_model-00002-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"pytorch_model-00002-of-00003.bin is damaged"):
        open_original(tmp_path, allow_pickle=True)


def test_a_tensor_in_two_shards_is_named(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    shard = folder / "model-00002-of-00003.safetensors"
    extra = {"model.norm.weight": original.tensors["model.norm.weight"]}
    save_file(load_file(shard) | extra, shard)
    with pytest.raises(ModelError, match=r"'model.norm.weight' stands in two files, model-0000"):
        open_original(folder)


@pytest.mark.parametrize(
    ("shard", "told"),
    [("../outside.safetensors", "not a weight file"), ("config.json", "not a weight file")],
)
def test_an_index_cannot_lead_elsewhere(
    original: Any, tmp_path: Path, shard: str, told: str
) -> None:
    folder = original.write(tmp_path / "model")
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["x"] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=told):
        open_original(folder)


def test_an_index_that_misplaces_a_tensor(original: Any, tmp_path: Path) -> None:
    path = original.write(tmp_path) / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.absent"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"'model.absent' in model-00001-of-00003.safetensors"):
        open_original(tmp_path)


def test_no_weights(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path)
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        open_original(folder)


def test_pickles_need_leave(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path, suffix="bin")
    with pytest.raises(ModelError, match="mrrag convert SRC DST --allow-pickle"):
        open_original(folder)


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def test_a_hostile_pickle_runs_nothing(original: Any, tmp_path: Path) -> None:
    folder = original.write(tmp_path, suffix="bin", shards=1)
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(_Bomb(str(mark))))  # it would work
    mark.unlink()
    torch.save({"lm_head.weight": _Bomb(str(mark))}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        open_original(folder, allow_pickle=True)
    assert not mark.exists()


def test_code_beside_the_weights_is_not_run(
    make: ModuleType, original: Any, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    original.config["auto_map"] = {
        "AutoConfig": "remote.Config",
        "AutoModelForCausalLM": "remote.Model",
    }
    original.tokenizer_config["auto_map"] = {"AutoTokenizer": ["remote.Tokens", "remote.Tokens"]}
    folder = original.write(tmp_path / "model")
    (folder / "remote.py").write_text(f"open({str(mark)!r}, 'w')\n")
    make.load(open_original(folder))
    assert not mark.exists()
