"""The doctor tells the truth about memory, files and machine, and reads no weight."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.examine import examine
from mrrag_llamaindex.doctor.machine import DeviceMemory, container_memory
from mrrag_llamaindex.doctor.memory import ModelSize, PromptShape
from mrrag_llamaindex.doctor.verdict import judge, what_would_fit
from mrrag_llamaindex.errors import ModelError, MRRAGError, SteeringError
from mrrag_llamaindex.files import hub
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from tests.doctor.sparse_checkpoint import write_original_7b, write_published_7b
from tests.generation.checkpoints.llava_original.original_checkpoint import (
    make_original,
    sentencepiece_model,
    write_clip,
)
from tests.tiny.families import FAMILIES, write

GB = 10**9
PHANTOM = defaults.PHANTOM_FOLDER / "llava"


def held(model) -> int:
    """Bytes of parameters and buffers, with what bitsandbytes keeps beside them."""
    total = sum(buffer.nbytes for buffer in model.buffers())
    for parameter in model.parameters():
        total += parameter.nbytes
        total += getattr(getattr(parameter, "SCB", None), "nbytes", 0)
        state = getattr(parameter, "quant_state", None)
        total += state.absmax.nbytes + state.code.nbytes if state else 0
    return total


def problems(found) -> str:
    return " | ".join(found.problems)


def prefill(model, prompt: PromptShape, rows: int) -> Any:
    """Run a batch, whose first row is padded, as the engine does."""
    ids = torch.randint(10, 20, (rows, prompt.prompt_tokens))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for row, start in enumerate([3] + [0] * (rows - 1)):
        ids[row, start : start + prompt.image_tokens] = model.config.image_token_id
    side = model.config.vision_config.image_size
    pixels = torch.zeros(rows, 3, side, side, dtype=model.dtype)
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    with torch.inference_mode():
        return model(**inputs, use_cache=True, logits_to_keep=1)


class PeakMemory(TorchDispatchMode):
    """Most bytes of tensors that lived at once, beside those that were there before."""

    def __init__(self, before):
        super().__init__()
        self.before = {tensor.untyped_storage()._cdata for tensor in before}
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.live and key not in self.before:
                    self.live[key] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return result


@pytest.fixture(scope="module")
def forty_million(tmp_path_factory) -> Path:
    """A random LLaVA of 43M parameters in bfloat16, with 576 image tokens."""
    from tests.tiny.tokenizers import byte_pairs

    folder = tmp_path_factory.mktemp("forty-million")
    tokens = byte_pairs(["<image>"])
    vision = transformers.CLIPVisionConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=2,
        num_attention_heads=8,
        image_size=336,
        patch_size=14,
    )
    text = transformers.MistralConfig(
        vocab_size=32064,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        sliding_window=None,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-2,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
    )
    made: Any = transformers.LlavaForConditionalGeneration
    made._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("float32", None), ("bfloat16", None), ("float32", "int8"), ("bfloat16", "int4")],
)
def test_bytes_of_weights_are_those_of_the_loaded_model(dtype, quantization):
    if quantization:
        pytest.importorskip("bitsandbytes")
    how = {"device": "cpu", "dtype": dtype, "quantization": quantization}
    found = examine("phantom", **how)
    assert found.loadable, found.verdict
    assert found.chosen.need.weights == held(load_model("phantom", **how).model)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_exact_for_every_family(tmp_path, family):
    folder = write(family, tmp_path)
    single, half = (
        load_model(str(folder), device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    check_bytes(folder, family, single, half)
    check_bytes(folder, family, half, single)


def check_bytes(folder, family, loaded, drawn) -> None:
    """Compare what is said of a folder with a model of it, and one of the other type."""
    found = examine(str(folder), device="cpu", dtype=str(loaded.model.dtype)[6:])
    assert found.loadable, found.verdict
    assert found.chosen.need.weights == held(loaded.model)
    assert sum(found.parameters.values()) == loaded.model.num_parameters()
    assert found.parameters["text"] > 0
    assert (found.parameters["vision tower"] > 0) is loaded.family.sees_images
    assert (found.parameters["projector"] > 0) is loaded.family.sees_images
    assert found.layers == 4
    if not loaded.layers_are_known:
        assert f"the middle third, {list(loaded.critical_layers)}" in str(found.checks)
    # Another type than the one that was drawn is computed, not drawn.
    computed = ModelSize.of(loaded.model).weight_bytes(drawn.model.dtype)
    # Gemma's one scalar buffer follows the type; buffers are taken not to.
    assert abs(computed - held(drawn.model)) <= (2 if family == "gemma3" else 0)


@pytest.mark.slow
def test_forty_million_parameters_need_what_the_doctor_says(forty_million):
    found = examine(str(forty_million), device="cpu", batch_size=2, max_documents=2)
    assert found.loadable, found.verdict
    assert found.image_tokens == 576
    assert found.stored_dtype == "bfloat16"
    model = load_model(str(forty_million), device="cpu").model
    need = found.chosen.need
    assert need.weights == held(model)
    assert 40e6 < sum(found.parameters.values()) == model.num_parameters() < 50e6
    prompt = PromptShape(576, 577, documents=2, batch_size=2)
    assert found.prompt_tokens == prompt.prompt_tokens == 926
    with PeakMemory([*model.parameters(), *model.buffers()]) as measured:
        output = prefill(model, prompt, 2)
    cache = sum(part.keys.nbytes + part.values.nbytes for part in output.past_key_values.layers)
    size = ModelSize.of(model)
    assert size.cache_bytes(2, prompt.prompt_tokens, torch.float32) == cache
    assert need.cache_per_token * 2 * prompt.prompt_tokens == cache
    # Two rows with their answers, and one kept prefix.
    assert need.cache == need.cache_per_token * (2 * (926 + 256) + 926)
    assert 1.1 < need.working / (measured.peak - cache) < 2.0


def test_cache_of_sliding_layers_holds_the_whole_prompt(tmp_path):
    model = load_model(str(write("gemma3", tmp_path)), device="cpu").model
    ids = torch.randint(10, 20, (3, 50))
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert any(tensor.shape[2] < 50 for tensor in tensors)
    stored = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert ModelSize.of(model).cache_bytes(3, 50, torch.float32) == stored


def test_weights_of_a_large_tower_dominate_the_work_of_a_short_prompt():
    from tests.doctor.sparse_checkpoint import llava_config, meta_model

    size = ModelSize.of(meta_model(llava_config()))
    # 25 hidden states of 1024 and two of 4096 channels, for 577 positions, in float16.
    vision = 577 * (25 * 1024 + 2 * 4096) * 2
    short = PromptShape(576, 577, documents=0, batch_size=1)
    assert size._vision_bytes(short, torch.float16) == vision
    assert size.working_bytes(short, torch.float16) > vision
    assert size.working_bytes(PromptShape(0, 57700, 0, 1), torch.float16) == int(
        1.25 * 100 * vision
    )


# 7B, true dimensions


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory) -> dict[str, tuple[Path, int]]:
    folder = tmp_path_factory.mktemp("7b")
    pieces = sentencepiece_model()
    return {
        "original": (folder / "original", write_original_7b(folder / "original", pieces)),
        "transformers": (folder / "hf", write_published_7b(folder / "hf")),
    }


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_seven_billion_parameters_are_counted_without_being_read(seven_billion, layout):
    folder, nbytes = seven_billion[layout]
    assert sum(f.stat().st_blocks * 512 for f in folder.iterdir()) < 2_000_000 < nbytes
    found = examine(str(folder), device="cpu", dtype="bfloat16")
    assert not found.problems
    assert found.layout == layout
    assert (found.layers, found.heads, found.key_value_heads, found.window) == (32, 32, 8, 32768)
    assert found.image_tokens == 576
    # Mistral 7B has 7,241,732,096 parameters and CLIP's vision tower 303,507,456.
    assert found.parameters == {
        "vision tower": 303_507_456,
        "projector": 1024 * 4096 + 4096 + 4096 * 4096 + 4096,
        "text": 7_241_732_096,
    }
    need = found.chosen.need
    assert nbytes < need.weights < nbytes + 10_000  # the angles of the rotary embedding
    assert need.cache_per_token == 2 * 32 * 8 * 128 * 2
    assert found.stored_bytes > nbytes
    assert "every stored tensor has its place" in str(found.checks)
    less = examine(str(folder), device="cpu", dtype="bfloat16", quantization="int4")
    matrices = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    saved = 2 * matrices - (matrices // 2 + 4 * matrices // 64 + 4 * 16 * 7 * 32)
    assert less.chosen.need.weights == need.weights - saved


def small_machine(*free: float):
    def devices() -> tuple[DeviceMemory, ...]:
        gpus = [DeviceMemory(f"cuda:{i}", "GPU", 80 * GB, int(f * GB)) for i, f in enumerate(free)]
        return (*gpus[:-1], DeviceMemory("cpu", "CPU", 500 * GB, int(free[-1] * GB)))

    return devices


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_would(seven_billion, monkeypatch):
    monkeypatch.setattr(machine, "devices", small_machine(22))
    found = examine(str(seven_billion["original"][0]), device="cpu")
    assert not found.loadable
    assert not found.problems
    short = found.chosen.need.total / 1e9 - 22
    assert f"{short:.1f} GB short" in found.verdict
    ways = " ".join(found.would_fit)
    for word in ("dtype bfloat16", "int8", "int4"):
        assert word in ways
    assert "batch_size 1 (" not in found.would_fit[0]  # 30 GB of weights alone
    assert "a smaller model" not in ways
    monkeypatch.setattr(machine, "devices", small_machine(3))
    assert examine(str(seven_billion["original"][0]), device="cpu").would_fit == (
        "a smaller model",
    )


@pytest.fixture(scope="module")
def size() -> ModelSize:
    from tests.doctor.sparse_checkpoint import llava_config, meta_model

    return ModelSize.of(meta_model(llava_config()))


PROMPT = PromptShape(576, 577, 6, 8)


def dtype_on(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16


def test_other_devices_and_a_device_map_are_offered(size):
    verdicts = judge(small_machine(10, 12, 100)(), size, PROMPT, dtype_on)
    assert [v.device for v in verdicts] == ["cuda:0", "cuda:1", "cpu"]
    assert [v.fits for v in verdicts] == [False, False, True]
    assert [v.dtype for v in verdicts] == ["bfloat16", "bfloat16", "float32"]
    ways = what_would_fit(verdicts[0], verdicts, size, PROMPT, torch.bfloat16)
    assert any(way.startswith("device cpu") for way in ways)
    assert any("device_map" in way for way in ways)
    assert not any("cuda:1" in way for way in ways)


def test_device_map_is_judged_on_all_memory_together(size):
    verdicts = judge(small_machine(10, 12, 3)(), size, PROMPT, dtype_on, spread=True)
    assert verdicts[0].device == "device_map"
    assert verdicts[0].free == 25 * GB
    assert verdicts[0].name == "cuda:0 + cuda:1 + cpu"
    quantised = judge(small_machine(10, 12, 3)(), size, PROMPT, dtype_on, "int8", spread=True)
    assert quantised[0].name == "cuda:0 + cuda:1"  # bitsandbytes does not mix with the CPU
    assert quantised[0].free == 22 * GB


@pytest.mark.parametrize("gap", [0, 1])
def test_verdict_turns_at_the_last_byte(size, gap):
    need = size.need(torch.float32, None, PROMPT).total
    cpu = DeviceMemory("cpu", "CPU", need, need - gap)
    (verdict,) = judge([cpu], size, PROMPT, dtype_on)
    assert verdict.fits is (gap == 0)


def test_more_documents_and_prompts_need_more(size):
    bf16 = torch.bfloat16
    one = size.need(bf16, None, PromptShape(576, 577, 1, 1))
    for other in (PromptShape(576, 577, 15, 1), PromptShape(576, 577, 1, 8)):
        more = size.need(bf16, None, other)
        assert more.weights == one.weights
        assert more.cache > one.cache
        assert more.working > one.working


# What is missing or wrong


@pytest.fixture
def phantom(tmp_path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(PHANTOM, folder)
    return folder


def sharded(folder: Path) -> list[str]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, index, files = sorted(tensors), {}, []
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
        files.append(file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return files


def test_every_missing_shard_is_named(phantom):
    files = sharded(phantom)
    assert examine(str(phantom), device="cpu").loadable
    for file in files[1:]:
        (phantom / file).unlink()
    found = examine(str(phantom), device="cpu")
    assert not found.loadable
    assert "2 files missing" in problems(found)
    assert files[1] in problems(found)
    assert files[2] in problems(found)
    assert files[0] not in problems(found)


def test_missing_shard_is_found_without_an_index(phantom):
    files = sharded(phantom)
    (phantom / "model.safetensors.index.json").unlink()
    (phantom / files[1]).unlink()
    assert files[1] in problems(examine(str(phantom), device="cpu"))


@pytest.mark.parametrize("change", [-1, 1])
def test_shard_of_another_length_than_its_header_says_is_named(phantom, change):
    file = phantom / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size + change)
    found = examine(str(phantom), device="cpu")
    assert "model.safetensors is damaged" in problems(found)
    assert found.verdict.startswith("model ")


@pytest.mark.parametrize(
    "text", [b"", b"\x05", b"\x10" + b"\0" * 7 + b"not json in here", b"<html>"]
)
def test_file_that_is_no_safetensors_is_named(phantom, text):
    (phantom / "model.safetensors").write_bytes(text)
    assert "model.safetensors" in problems(examine(str(phantom), device="cpu"))


def test_index_that_leads_out_of_the_folder_is_refused(phantom):
    sharded(phantom)
    index = {"weight_map": {"lm_head.weight": "../../secret.safetensors"}}
    (phantom / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a weight file" in problems(examine(str(phantom), device="cpu"))


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_tensor_without_its_place_is_named_before_loading(phantom, change):
    tensors = load_file(phantom / "model.safetensors")
    name = next(key for key in tensors if key.endswith("layers.2.self_attn.q_proj.weight"))
    if change == "unexpected":
        tensors[name.replace("layers.2", "layers.7")] = tensors[name].clone()
    elif change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:5].clone()
    save_file(tensors, phantom / "model.safetensors", {"format": "pt"})
    found = examine(str(phantom), device="cpu")
    assert f"{change}" in problems(found)
    assert "q_proj" in problems(found)
    with pytest.raises(ModelError, match="q_proj"):  # as loading says
        load_model(str(phantom), device="cpu")


def test_folder_without_weights_or_tokenizer_says_both(phantom):
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (phantom / name).unlink()
    found = examine(str(phantom), device="cpu")
    assert "holds none" in problems(found)
    assert "tokenizer" in problems(found)
    assert len(found.problems) >= 2
    assert "more problem" in found.verdict


def test_missing_processor_is_mended_and_told(phantom):
    (phantom / "processor_config.json").unlink()
    found = examine(str(phantom), device="cpu")
    assert found.loadable, found.verdict
    assert "no processor_config.json" in str([c.text for c in found.checks if c.state == "note"])


def test_pickles_need_leave(phantom):
    tensors = load_file(phantom / "model.safetensors")
    (phantom / "model.safetensors").unlink()
    torch.save(tensors, phantom / "pytorch_model.bin")
    found = examine(str(phantom), device="cpu")
    assert "--allow-pickle" in problems(found)
    allowed = examine(str(phantom), device="cpu", allow_pickle=True)
    assert allowed.loadable, allowed.verdict


def test_profile_and_its_absence_are_told(phantom):
    def told() -> list[str]:
        found = examine(str(phantom), device="cpu")
        return [c.text for c in found.checks if c.what == "critical layers"]

    assert told() == ["[1], from the profile"]
    profile = json.loads((phantom / "mrrag_profile.json").read_text())
    (phantom / "mrrag_profile.json").write_text(json.dumps(profile | {"critical_layers": None}))
    assert told() == ["not known: the middle third, [1, 2], would be steered"]
    (phantom / "mrrag_profile.json").write_text(json.dumps(profile | {"critical_layers": [9]}))
    assert "layer 9" in problems(examine(str(phantom), device="cpu"))


def test_layers_with_a_sliding_window_are_not_said_to_be_steered(tmp_path):
    folder = write("gemma3", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["sliding_attention", "full_attention"] * 2
    (folder / "config.json").write_text(json.dumps(config))
    assert "middle third, [1]," in str(examine(str(folder), device="cpu").checks)
    assert load_model(str(folder), device="cpu").critical_layers == (1,)


def test_prompt_beyond_the_window_is_noted():
    found = examine("phantom", device="cpu", max_documents=30)
    assert any("lowest-scored documents would be left out" in c.text for c in found.checks)
    assert found.loadable


def test_model_that_cannot_be_steered_is_refused(phantom):
    config = json.loads((phantom / "config.json").read_text())
    config["text_config"] |= {"layer_types": ["linear_attention"] + ["full_attention"] * 3}
    (phantom / "config.json").write_text(json.dumps(config))
    with pytest.raises(SteeringError, match="linear_attention"):
        examine(str(phantom), device="cpu")


def test_missing_package_for_quantization_is_a_problem(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "bitsandbytes" else found(name),
    )
    told = examine("phantom", device="cpu", quantization="int8")
    assert "[quantization]" in problems(told)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtype": "float7"}, "float7"),
        ({"quantization": "int3"}, "int3"),
        ({"device": "xpu:7"}, "not available"),
        ({"model": "./no/such/folder"}, "no such folder"),
    ],
)
def test_wrong_arguments_are_refused_by_name(how, message):
    with pytest.raises(ModelError, match=message):
        examine(**({"model": "phantom"} | how))


# Original layout: where the vision tower comes from


def original(folder: Path, clip: Path | str, *, tower: bool) -> Path:
    made = make_original(Path(clip), sentencepiece_model())
    made.config["mm_vision_tower"] = str(clip)
    if not tower:
        made.tensors = {k: v for k, v in made.tensors.items() if "vision_tower" not in k}
    made.write(folder)
    return folder


def test_vision_tower_on_this_machine_is_used_where_the_checkpoint_has_none(tmp_path):
    write_clip(tmp_path / "clip")
    folder = original(tmp_path / "model", tmp_path / "clip", tower=False)
    found = examine(str(folder), device="cpu")
    assert found.loadable, found.verdict
    assert "which is on this machine" in str(found.checks)
    assert found.chosen.need.weights == held(load_model(str(folder), device="cpu").model)


def test_vision_tower_that_nobody_has_is_a_problem_and_nothing_is_downloaded(tmp_path, offline):
    folder = original(tmp_path / "model", "openai/clip-vit-large-patch14-336", tower=False)
    config = json.loads((folder / "config.json").read_text()) | {"mm_hidden_size": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    found = examine(str(folder), device="cpu")
    assert "vision tower" in problems(found)
    assert "hub did not provide it" in problems(found)
    assert found.image_tokens == 576  # from the known dimensions of that tower


# The hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_default_model_without_network_names_the_ways_on(offline):
    with pytest.raises(ModelError, match=r"hub did not provide it.*phantom"):
        examine()


class Hub:
    """A hub with one model, whose files are copied into the cache that is asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.fetched: list[str] = []

    def model_info(self, hub_id, *, timeout, files_metadata=False):
        files = [
            type("File", (), {"rfilename": f.name, "size": f.stat().st_size})
            for f in self.folder.iterdir()
        ]
        return type("Info", (), {"siblings": files})

    def snapshot_download(self, hub_id, *, allow_patterns=None, local_files_only=False):
        from fnmatch import fnmatch

        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            if self.cache.exists():
                return str(self.cache)
            raise LocalEntryNotFoundError("not here")
        self.cache.mkdir(exist_ok=True)
        for file in self.folder.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                self.fetched.append(file.name)
                shutil.copy(file, self.cache)
        return str(self.cache)


@pytest.fixture
def small_hub(monkeypatch, tmp_path) -> Hub:
    import huggingface_hub

    made = Hub(PHANTOM, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_of_the_hub_only_small_files_are_fetched(small_hub):
    found = examine("someone/phantom", device="cpu")
    assert "model.safetensors" not in small_hub.fetched
    assert "config.json" in small_hub.fetched
    assert found.loadable, found.verdict
    assert "yet to be downloaded" in str(found.checks)
    assert found.stored_bytes == (PHANTOM / "model.safetensors").stat().st_size
    assert found.parameters == examine("phantom", device="cpu").parameters
    assert found.chosen.need.weights == examine("phantom", device="cpu").chosen.need.weights
    # Small files alone are no model: loading asks the hub again.
    folder = hub.find_folder("someone/phantom", what="model", ways_on="", error=ModelError)
    assert (folder / "model.safetensors").is_file()
    again = examine("someone/phantom", device="cpu")
    assert "yet to be downloaded" not in str(again.checks)


def test_full_disk_is_a_problem_for_a_download(small_hub, monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda folder: 1000)
    assert "disk" in problems(examine("someone/phantom", device="cpu"))


# The machine


def test_limit_of_a_container_counts(tmp_path):
    assert container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("8000000000\n")
    (tmp_path / "memory.current").write_text("5000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000000\nfile 3\n")
    assert container_memory(tmp_path) == (8 * GB, 4 * GB)
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) is None


def test_this_machine_has_a_cpu_with_memory_and_packages():
    cpu = machine.devices()[-1]
    assert cpu.device == "cpu"
    assert 0 < cpu.free <= cpu.total
    assert machine.packages()["torch"] == version("torch")
    assert machine.free_disk(Path("/no/such/folder/at/all")) > 0


def test_diagnosis_is_plain_json():
    values = examine("phantom", device="cpu").as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values | {
        "devices": list(values["devices"]),
        "checks": list(values["checks"]),
        "would_fit": [],
    }
    assert values["loadable"] is True
    assert values["devices"][0]["need"]["total"] > values["devices"][0]["need"]["weights"]


def test_without_psutil_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MRRAGError, match=r"psutil: pip install \"mrrag-llamaindex\[cli\]\""):
        examine("phantom")
