"""What an engine must be like; none of this needs vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.serving.vllm import plugin
from mrrag_llamaindex.serving.vllm.arguments import BATCH, SCHEDULER, WORKER, command_line
from mrrag_llamaindex.serving.vllm.checks import (
    check_arguments,
    check_config,
    check_layer,
    check_layers,
)
from mrrag_llamaindex.serving.vllm.paged import BlockLayout


def config(**changes):
    """Make a `VllmConfig` as far as it is read; `changes` are "part__field"."""
    parts = {
        "parallel_config": {
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "data_parallel_size": 1,
            "worker_cls": WORKER,
        },
        "scheduler_config": {"async_scheduling": False, "scheduler_cls": SCHEDULER},
        "cache_config": {"cache_dtype": "auto"},
        "model_config": {
            "is_encoder_decoder": False,
            "runner_type": "generate",
            "logits_processors": [BATCH],
            "is_mm_prefix_lm": False,
        },
        "compilation_config": {"cudagraph_mode": SimpleNamespace(name="PIECEWISE")},
        "device_config": {"device_type": "cuda"},
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            parts[part][field] = value
    whole = {"speculative_config": None, "kv_transfer_config": None, "use_v2_model_runner": False}
    whole |= {name: value for name, value in changes.items() if "__" not in name}
    return SimpleNamespace(**{k: SimpleNamespace(**v) for k, v in parts.items()}, **whole)


def test_an_engine_as_it_should_be_passes():
    check_config(config())
    check_arguments(config())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"parallel_config__tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"parallel_config__data_parallel_size": 2}, "data_parallel_size"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode_context"),
        ({"parallel_config__enable_dbo": True}, "enable_dbo"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"kv_transfer_config": object()}, "KV connector"),
        ({"scheduler_config__async_scheduling": True}, "async_scheduling"),
        ({"cache_config__cache_dtype": "fp8_e4m3"}, "fp8_e4m3"),
        (
            {"compilation_config__cudagraph_mode": SimpleNamespace(name="FULL_AND_PIECEWISE")},
            "CUDA graphs",
        ),
        ({"use_v2_model_runner": True}, "V2"),
        ({"model_config__is_encoder_decoder": True}, "encoder-decoder"),
        (
            {"model_config__is_mm_prefix_lm": True, "device_config__device_type": "cpu"},
            "both directions",
        ),
    ],
)
def test_what_would_be_wrong_is_refused_by_name(changes, names):
    with pytest.raises(ValueError, match=names):
        check_config(config(**changes))


@pytest.mark.parametrize(
    "lacking",
    [
        {"scheduler_config__scheduler_cls": None},
        {"parallel_config__worker_cls": "auto"},
        {"model_config__logits_processors": None},
    ],
)
def test_the_overlay_alone_does_not_start(lacking):
    with pytest.raises(ValueError, match="--scheduler-cls=") as refused:
        check_arguments(config(**lacking))
    assert all(argument in str(refused.value) for argument in command_line())


def test_layers_that_cannot_be_computed_again_are_refused():
    check_layer("FlashAttentionImpl", {"logits_soft_cap": None, "sliding_window": 4096})
    with pytest.raises(ValueError, match="soft cap"):
        check_layer("FlashAttentionImpl", {"logits_soft_cap": 50.0})
    with pytest.raises(ValueError, match="sinks"):
        check_layer("FlashAttentionImpl", {"sinks": torch.zeros(4)})
    strange = SimpleNamespace(impl=SimpleNamespace(), attn_type="decoder")
    with pytest.raises(ValueError, match="SimpleNamespace"):
        check_layers({"layers.0": strange})
    encoder = SimpleNamespace(impl=SimpleNamespace(), attn_type="encoder_only")
    steered = SimpleNamespace(impl=SimpleNamespace(is_steered=True), attn_type="decoder")
    check_layers({"vision": encoder, "layers.0": steered})


def test_nothing_is_registered_unless_asked(monkeypatch):
    def never():
        raise AssertionError("registered")

    monkeypatch.setattr(plugin, "activate", never)
    for value in (None, "0", ""):
        monkeypatch.delenv("MRRAG_VLLM", raising=False)
        if value is not None:
            monkeypatch.setenv("MRRAG_VLLM", value)
        plugin.register()
    monkeypatch.setenv("MRRAG_VLLM", "yes")
    with pytest.raises(ValueError, match="0 or 1"):
        plugin.register()


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("0", "0")])
def test_a_steered_engine_reports_nothing_to_its_makers(monkeypatch, own, expected):
    monkeypatch.setattr(plugin, "activate", lambda: None)
    monkeypatch.setenv("MRRAG_VLLM", "1")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "")
    monkeypatch.delenv("VLLM_NO_USAGE_STATS")
    if own is not None:
        monkeypatch.setenv("VLLM_NO_USAGE_STATS", own)
    plugin.register()
    assert os.environ["VLLM_NO_USAGE_STATS"] == expected


def test_importing_the_plugin_imports_no_engine():
    code = "import sys, mrrag_llamaindex.serving.vllm.plugin; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


HEADS, BLOCK, DIM = 2, 4, 6


def flat_halves(keys, values, cache, slots):
    """Lay out as FlashAttention does: (block, head, token, key then value)."""
    for part, numbers in enumerate((keys, values)):
        cache[slots // BLOCK, :, slots % BLOCK, part * DIM : (part + 1) * DIM] = numbers


def transposed_keys(keys, values, cache, slots):
    """Lay keys out by number and values by token, as vLLM's kernels for vector units do."""
    halves = cache.view(len(cache), HEADS, 2, BLOCK * DIM)
    for key, value, slot in zip(keys, values, slots.tolist(), strict=True):
        place = slot % BLOCK
        halves[slot // BLOCK, :, 0, place::BLOCK] = key
        halves[slot // BLOCK, :, 1, place * DIM : (place + 1) * DIM] = value


@pytest.mark.parametrize("write", [flat_halves, transposed_keys])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_found_whatever_the_layout(write, dtype):
    cache = torch.zeros(9, HEADS, BLOCK, 2 * DIM, dtype=dtype)
    layout = BlockLayout.learn(write, cache, HEADS, BLOCK, DIM)
    assert not cache.any()
    blocks = torch.tensor([7, 2, 5])
    keys, values = torch.randn(2, 10, HEADS, DIM).to(dtype)
    token = torch.arange(10)
    write(keys, values, cache, blocks[token // BLOCK] * BLOCK + token % BLOCK)
    for tokens in (10, 7):
        found = layout.gather(cache, blocks, tokens)
        for given, wanted in zip(found, (keys, values), strict=True):
            assert torch.equal(given[0], wanted[:tokens].transpose(0, 1))


def test_a_layout_that_loses_numbers_is_refused():
    def lossy(keys, values, cache, slots):
        flat_halves(keys, values.clamp(max=3), cache, slots)

    cache = torch.zeros(3, HEADS, BLOCK, 2 * DIM)
    with pytest.raises(SteeringError, match="one place per number"):
        BlockLayout.learn(lossy, cache, HEADS, BLOCK, DIM)
