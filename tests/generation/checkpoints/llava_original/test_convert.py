"""A converted folder holds the same model, for stock transformers and for us, or nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.conversion import writing
from mrrag_llamaindex.generation.checkpoints.conversion.original import convert_checkpoint
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile


def logits(make: ModuleType, model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**make.inputs(model.config.image_token_id)).logits


def in_memory(folder: Path, **options: Any) -> Any:
    opened = open_original(folder, **options)
    return LlavaForConditionalGeneration.from_pretrained(
        None, config=opened.config, state_dict=dict(opened.tensors)
    ).eval()


def stock(folder: Path) -> Any:
    model, told = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_folder_equals_the_model_in_memory(
    make: ModuleType, original: Any, tmp_path: Path, suffix: str, tower: bool
) -> None:
    if not tower:
        original.drop_tower()
    src = original.write(tmp_path / "src", suffix=suffix)
    told = convert_checkpoint(
        src, tmp_path / "dst", allow_pickle=suffix == "bin", shard_bytes=60_000
    )
    assert len(told.files) > 3
    memory = in_memory(src, allow_pickle=True)
    folder = stock(told.folder)
    mine, theirs = memory.state_dict(), folder.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(logits(make, memory), logits(make, folder))
    assert folder.config.mrrag_vision_tower == told.vision_source
    assert folder.generation_config.suppress_tokens == list(range(330, 384))
    if tower:
        with torch.inference_mode():
            reference = original.reference(**make.inputs(330)).logits
        assert (logits(make, folder) - reference)[..., :330].abs().max() <= 1e-5


def test_our_loader_takes_both(original: Any, tmp_path: Path) -> None:
    src = original.write(tmp_path / "src")
    told = convert_checkpoint(src, tmp_path / "dst")
    before = load_model(str(src), device="cpu")
    after = load_model(str(told.folder), device="cpu")
    expected = in_memory(src).state_dict()
    for loaded in (before, after):
        values = loaded.model.state_dict()
        assert all(torch.equal(expected[name], values[name]) for name in expected)
        assert loaded.model.generation_config.suppress_tokens == list(range(330, 384))
    for template in (before.profile.template, after.profile.template):
        assert template.opening == "[INST] <image>\n"
        assert template.closing == " [/INST]"


def test_tokens_survive(make: ModuleType, original: Any, tmp_path: Path) -> None:
    src = original.write(tmp_path / "src")
    told = convert_checkpoint(src, tmp_path / "dst")
    before = open_original(src).processor
    after = AutoProcessor.from_pretrained(told.folder, backend="pil")
    text = "[INST] " + "<image>" * 4 + "\nIs there a nodule? é [/INST]"
    ids = before.tokenizer(text)["input_ids"]
    assert after.tokenizer(text)["input_ids"] == ids
    assert after.tokenizer.is_fast
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert (after.tokenizer.pad_token, after.tokenizer.pad_token_id) == ("<pad>", 331)
    image = torch.rand(3, 28, 28)
    both = [p(images=[image], text="<image> a", return_tensors="pt") for p in (before, after)]
    assert torch.equal(both[0]["input_ids"], both[1]["input_ids"])
    assert torch.equal(both[0]["pixel_values"], both[1]["pixel_values"])
    assert (both[0]["input_ids"] == 330).sum() == make.IMAGE_TOKENS


def test_the_template_is_that_of_the_language_model(
    make: ModuleType, clip: Path, pieces: bytes, tmp_path: Path
) -> None:
    src = make.make_original(clip, pieces, kind="llama").write(tmp_path / "src")
    template = ModelProfile.load(convert_checkpoint(src, tmp_path / "dst").folder).template
    assert template.opening == "USER: <image>\n"


def test_files_keep_to_their_size(original: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    told = convert_checkpoint(
        original.write(tmp_path / "src"),
        tmp_path / "dst",
        shard_bytes=60_000,
        progress=lambda done, total: seen.append((done, total)),
    )
    index = json.loads((told.folder / "model.safetensors.index.json").read_text())
    held: dict[str, list[int]] = {}
    for file in told.files:
        with safe_open(told.folder / file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                assert index["weight_map"][key] == file
                held.setdefault(file, []).append(opened.get_tensor(key).nbytes)
    assert all(sum(sizes) <= 60_000 or len(sizes) == 1 for sizes in held.values())
    assert sum(map(sum, held.values())) == told.nbytes == seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
    assert len(seen) == len(told.files)
    assert sum(map(len, held.values())) == told.tensors == len(original.tensors)


def test_another_dtype(original: Any, tmp_path: Path) -> None:
    src = original.write(tmp_path / "src")
    told = convert_checkpoint(src, tmp_path / "dst", dtype="bfloat16")
    assert told.files == ("model.safetensors",)
    model = stock(told.folder)
    assert model.dtype == torch.bfloat16
    expected = {k: v.bfloat16() for k, v in in_memory(src).state_dict().items()}
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    with pytest.raises(ModelError, match="float8"):
        convert_checkpoint(src, tmp_path / "other", dtype="float8")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_not_overwritten(original: Any, tmp_path: Path, kind: str) -> None:
    src, dst = original.write(tmp_path / "src"), tmp_path / "dst"
    mine = dst
    if kind == "folder":
        dst.mkdir()
        mine = dst / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(ModelError, match="not an empty folder"):
        convert_checkpoint(src, dst)
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst", "src"]


def test_an_empty_folder_is_filled(original: Any, tmp_path: Path) -> None:
    (tmp_path / "dst").mkdir()
    told = convert_checkpoint(original.write(tmp_path / "src"), tmp_path / "dst")
    assert (told.folder / "config.json").is_file()


def test_a_converted_model_is_refused_in_one_line(original: Any, tmp_path: Path) -> None:
    original.reference.save_pretrained(tmp_path / "src")
    with pytest.raises(ModelError, match="'llava', not in LLaVA's original layout") as caught:
        convert_checkpoint(tmp_path / "src", tmp_path / "dst")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no such folder"):
        convert_checkpoint(tmp_path / "absent", tmp_path / "dst")


def test_a_full_disk_is_told_first(
    original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = original.write(tmp_path / "src")
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ModelError, match="GB are free"):
        convert_checkpoint(src, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_place_that_cannot_be_written(original: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        convert_checkpoint(original.write(tmp_path / "src"), tmp_path / "file" / "dst")


def test_a_failure_leaves_nothing(original: Any, tmp_path: Path) -> None:
    src = original.write(tmp_path / "src")

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(src, tmp_path / "dst", shard_bytes=60_000, progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["src"]


def _convert_slowly(src: Path, dst: Path, started: Any) -> None:
    def wait(done: int, total: int) -> None:
        started.set()
        time.sleep(60)

    convert_checkpoint(src, dst, shard_bytes=60_000, progress=wait)


@pytest.mark.skipif(os.name == "nt", reason="needs fork and kill")
def test_a_killed_conversion_leaves_no_folder_of_that_name(original: Any, tmp_path: Path) -> None:
    src, dst = original.write(tmp_path / "src"), tmp_path / "dst"
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_convert_slowly, args=(src, dst, started))
    process.start()
    assert started.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not dst.exists()
    assert [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
    assert convert_checkpoint(src, dst).folder == dst
