"""``mrrag doctor``: a table and a verdict, or the table, one line and exit 2."""

from __future__ import annotations

import importlib.util
import json
import re
import time

import pytest

from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.machine import DeviceMemory
from tests.doctor.sparse_checkpoint import write_original_7b, write_published_7b
from tests.generation.checkpoints.llava_original.original_checkpoint import sentencepiece_model
from tests.tiny import open_clip as biomed

GB = 10**9


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("7b")
    write_original_7b(folder / "original", sentencepiece_model())
    write_published_7b(folder / "transformers")
    return folder


@pytest.fixture
def large_machine(monkeypatch):
    cpu = DeviceMemory("cpu", "CPU", 64 * GB, 60 * GB)
    monkeypatch.setattr(machine, "devices", lambda: (cpu,))


@pytest.fixture
def small_machine(monkeypatch):
    cpu = DeviceMemory("cpu", "CPU", 24 * GB, 20 * GB)
    monkeypatch.setattr(machine, "devices", lambda: (cpu,))


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "transformers"])
def test_seven_billion_parameters_in_seconds_and_little_memory(
    mrrag, folders, large_machine, layout
):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    result = mrrag("doctor", folders / layout, "--device", "cpu")
    assert result.code == 0, result.err
    assert time.perf_counter() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    assert f"{layout} layout" in result.out
    assert "text 7,241.7 M" in result.out
    assert "fits: needs" in lines(result.out)[-1]
    assert re.search(r"cpu .*30\.3 GB .*60\.0 GB .*float32 +yes", result.out)
    assert "PROBLEM" not in result.out


@pytest.mark.slow
def test_model_that_does_not_fit_exits_with_one_line_and_the_ways_on(mrrag, folders, small_machine):
    result = mrrag("doctor", folders / "original", "--device", "cpu")
    assert result.code == 2
    (line,) = lines(result.err)
    assert line.startswith("error: model ")
    assert "does not fit" in line
    assert "dtype bfloat16 (19.0 GB)" in line
    assert re.search(r"float32 +no", result.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--dtype", "bfloat16"),
        ("--quantization", "int4"),
        ("--quantization", "int8", "--batch-size", "1", "--documents", "1"),
    ],
)
def test_what_would_fit_fits(mrrag, folders, small_machine, options):
    pytest.importorskip("bitsandbytes")
    result = mrrag("doctor", folders / "original", "--device", "cpu", *options)
    assert result.code == 0, result.err
    assert result.err == ""


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(mrrag, folders, small_machine):
    result = mrrag("doctor", folders / "transformers", "--device", "cpu", "--json")
    assert result.code == 2
    (only,) = lines(result.out)
    found = json.loads(only)
    assert found["loadable"] is False
    assert found["verdict"] in result.err
    assert found["devices"][0]["fits"] is False
    assert found["layers"] == 32
    assert "dtype bfloat16 (19.0 GB)" in found["would_fit"]


@pytest.mark.slow
def test_options_reach_the_numbers(mrrag):
    def need(*options) -> dict:
        result = mrrag("doctor", "phantom", "--device", "cpu", "--json", *options)
        assert result.code == 0, result.err
        return json.loads(result.out)["devices"][0]["need"]

    usual = need()
    assert need("--dtype", "bfloat16")["weights"] < usual["weights"]
    assert need("--documents", "1")["cache"] < usual["cache"]
    assert need("--batch-size", "1")["cache"] < usual["cache"]
    mapped = mrrag("doctor", "phantom", "--device-map", "auto", "--json")
    assert json.loads(mapped.out)["devices"][0]["device"] == "device_map"


@pytest.mark.slow
def test_incomplete_model_is_told_in_the_table_and_in_one_line(mrrag, tmp_path):
    folder = tmp_path / "model"
    write_original_7b(folder, sentencepiece_model())
    (folder / "model-00002-of-00004.safetensors").unlink()
    result = mrrag("doctor", folder, "--device", "cpu")
    assert result.code == 2
    assert "PROBLEM weights: 1 file missing: model-00002-of-00004.safetensors" in result.out
    (line,) = lines(result.err)
    assert "cannot be loaded" in line
    assert "model-00002-of-00004.safetensors" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("./no/such/model",), ("./no/such/model", "phantom")),
        (("phantom", "--quantization", "int3"), ("int3", "int8 or int4")),
        (("phantom", "--dtype", "float7"), ("float7",)),
        (("phantom", "--device", "xpu:9"), ("xpu:9",)),
    ],
)
def test_bad_input_is_one_line_and_no_table(mrrag, arguments, words):
    result = mrrag("doctor", *arguments)
    assert result.code == 2
    assert result.out == ""
    (line,) = lines(result.err)
    for word in words:
        assert word in line


def test_default_model_without_network_names_the_two_ways_on(mrrag, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    result = mrrag("doctor")
    assert time.perf_counter() - started < 10
    assert result.code == 2
    (line,) = lines(result.err)
    assert "llava-med" in line
    assert "path/to/folder" in line
    assert "phantom" in line


def test_help_shows_an_example(mrrag):
    assert "mrrag doctor path/to" in mrrag("doctor", "--help").out


def test_towers_are_described_and_the_verdict_comes_last(mrrag, tmp_path, tokenizer):
    biomed.write(tmp_path, tokenizer)
    result = mrrag("doctor", "--towers", tmp_path, "--device", "cpu")
    assert result.code == 0, result.err
    assert "20 dimensions; 40 numbers for each pair" in result.out
    assert "12 tokens at once" in result.out
    assert "fit: they need" in result.out.splitlines()[-1]
    found = json.loads(mrrag("doctor", "--towers", "phantom", "--json").out)
    assert (found["dimension"], found["tokens"], found["loadable"]) == (64, 128, True)
    both = mrrag("doctor", "phantom", "--towers", "phantom")
    assert both.code == 2
    assert "one thing at a time" in both.err


def test_vllm_is_looked_at_only_where_it_is_asked_for(mrrag, tmp_path):
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed here")
    folder = tmp_path / "out"
    assert mrrag("convert", "phantom", folder, "--for", "vllm").code == 0
    result = mrrag("doctor", folder, "--engine", "vllm", "--device", "cpu", "--json")
    assert result.code == 2
    assert "mrrag-llamaindex[vllm]" in result.err
    assert json.loads(result.out)["loadable"] is False
    assert mrrag("doctor", folder, "--device", "cpu").code == 0
