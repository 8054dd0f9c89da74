"""8- and 4-bit weights: only the text layers, checked after loading, and still steerable."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import transformers

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.quantization import (
    BITS,
    check_quantized,
    is_text_layer,
    quantization_config,
    quantized_bytes,
)
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.studies import draw_findings, draw_study
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import register
from mrrag_llamaindex.steering.ifa import IFA
from tests.tiny.families import FAMILIES, write

bitsandbytes = pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def quantized(folder, family: str, name: str | None, dtype=torch.float32, config=None):
    register()
    base = getattr(transformers, FAMILIES[family][0])
    return steerable_class(base).from_pretrained(
        folder,
        quantization_config=config or quantization_config(name, "cpu", dtype),
        attn_implementation=attention_implementation(base),
        device_map={"": "cpu"},
        dtype=dtype,
    )


def linears(model) -> dict[str, type]:
    kinds = torch.nn.Linear, bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit
    return {key: type(part) for key, part in model.named_modules() if isinstance(part, kinds)}


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_the_text_is_converted_and_no_other(folders, family, name):
    model = quantized(folders[family], family, name)
    wanted = {"int8": bitsandbytes.nn.Linear8bitLt, "int4": bitsandbytes.nn.Linear4bit}[name]
    # Seven matrices in each of four layers, written without the pattern of the package.
    text = {key for key in linears(model) if ".self_attn." in key or ".mlp." in key}
    text = {key for key in text if "vision" not in key and "visual" not in key}
    assert len(text) == 28
    converted = {key for key, kind in linears(model).items() if "bitsandbytes" in kind.__module__}
    assert converted == text
    assert {linears(model)[key] for key in text} == {wanted}
    check_quantized(model, name)


def test_short_names_of_the_vision_tower_would_have_been_converted_too(folders):
    # The obvious list does not match "model.vision_tower...", and the check after loading sees it.
    skip = ["vision_tower", "multi_modal_projector", "lm_head"]
    config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    model = quantized(folders["llava"], "llava", None, config=config)
    with pytest.raises(ModelError, match="no part of the text"):
        check_quantized(model, "int8")


def test_model_that_was_not_quantised_is_found_out(folders):
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folders["llava"])
    check_quantized(model, None)
    with pytest.raises(ModelError, match="did not happen"):
        check_quantized(model, "int8")


def test_eight_bits_do_not_pass_for_four(folders):
    model = quantized(folders["llava"], "llava", "int8")
    with pytest.raises(ModelError, match="did not happen"):
        check_quantized(model, "int4")


def test_one_layer_left_out_is_found_out(folders):
    model = quantized(folders["llava"], "llava", "int4")
    layer = model.model.language_model.layers[2].mlp
    layer.up_proj = torch.nn.Linear(64, 96, bias=False)
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj"):
        check_quantized(model, "int4")


@pytest.mark.parametrize("name", BITS)
def test_bytes_of_a_quantised_matrix_are_those_that_it_takes(folders, name):
    model = quantized(folders["llava"], "llava", name)
    layer = model.model.language_model.layers[0].mlp.up_proj
    if name == "int8":
        held = layer.weight.nbytes + layer.weight.SCB.nbytes
    else:
        state = layer.weight.quant_state
        held = layer.weight.nbytes + state.absmax.nbytes + state.code.nbytes
    assert held == quantized_bytes(name, 96, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bits_compute_in_the_type_of_the_model(folders, dtype):
    model = quantized(folders["llava"], "llava", "int4", dtype)
    assert model.model.language_model.layers[0].mlp.up_proj.compute_dtype is dtype
    assert model.lm_head.weight.dtype is dtype
    assert quantization_config("int4", "cpu", "bfloat16").bnb_4bit_compute_dtype is torch.bfloat16


def engine(name: str | None, backend: str = "rows") -> LlavaEngine:
    loaded = load_model("phantom", device="cpu", quantization=name, backend=backend)
    return LlavaEngine(loaded, max_new_tokens=2)


def steered_request() -> tuple[PromptRequest, object]:
    studies = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        studies.append(draw_study(rng, f"patient-{seed}", draw_findings(rng)))
    documents = [
        PromptDocument(f"d{i}", study.report, (1.0, 0.0, 0.5, 0.7, 0.2)[i])
        for i, study in enumerate(studies)
    ]
    return PromptRequest("Is there a pleural effusion?", documents), studies[2].image


@pytest.mark.parametrize("name", BITS)
def test_quantised_model_is_steered_alike_by_rows_and_eager(name):
    request, image = steered_request()
    rows, eager = engine(name), engine(name, "eager")
    check_quantized(rows.model, name)
    (plain,) = rows.generate([request], [image])
    (steered,) = rows.generate([request], [image], policy=IFA())
    (reference,) = eager.generate([request], [image], policy=IFA())
    assert steered.steering.applied
    assert abs(steered.p_yes - plain.p_yes) > 1e-2
    assert steered.p_yes == pytest.approx(reference.p_yes, abs=1e-4)
    assert steered.text == reference.text


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.01), ("int4", 0.05)])
def test_quantised_answers_are_near_those_of_whole_weights(name, bound):
    request, image = steered_request()
    for ifa in (None, IFA()):
        (whole,) = engine(None).generate([request], [image], policy=ifa)
        (small,) = engine(name).generate([request], [image], policy=ifa)
        assert 0 < abs(small.p_yes - whole.p_yes) < bound


def test_no_quantization_is_no_configuration():
    assert quantization_config(None, "cpu") is None


def test_unknown_name_is_refused():
    with pytest.raises(ModelError, match=r"'int3'.*int8 or int4"):
        quantization_config("int3", "cpu")


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_missing_package_is_named_with_the_remedy(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(ModelError, match=rf"{package}, which is not installed.*\[quantization\]"):
        quantization_config("int8", "cpu")


def test_device_that_bitsandbytes_does_not_know_is_refused():
    with pytest.raises(ModelError, match="cannot run on device 'meta'"):
        quantization_config("int8", "meta")


def test_gpu_without_eight_bit_cores_is_refused_for_int8_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "an old GPU")
    for device in ("cuda:0", "cuda", None):
        with pytest.raises(ModelError, match="an old GPU"):
            quantization_config("int8", device)
    assert quantization_config("int4", "cuda:0").load_in_4bit
    assert quantization_config("int8", "cpu").load_in_8bit


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.layers.0.self_attn.q_proj", True),
        ("model.language_model.layers.31.mlp.up_proj", True),
        ("model.decoder.layers.3.fc1", True),
        ("transformer.h.2.attn.c_attn", True),
        ("gpt_neox.layers.2.mlp.dense_h_to_4h", True),
        ("model.vision_tower.encoder.layers.0.mlp.fc1", False),
        ("model.visual.blocks.0.attn.qkv", False),
        ("model.visual.merger.mlp.0", False),
        ("model.multi_modal_projector.linear_1", False),
        ("model.language_model.embed_tokens", False),
        ("lm_head", False),
    ],
)
def test_text_layers_are_told_by_name(name, text):
    assert is_text_layer(name) is text
