"""A LoRA adapter of peft: on every family, merged or not, steered alike, and only on its base."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from PIL import Image

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile
from mrrag_llamaindex.generation.checkpoints.profile_store import (
    keep_profile,
    model_identity,
    profile_identity,
    with_known_layers,
)
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import IFA
from tests.tiny.families import FAMILIES, write

STEERED = IFA(layers=(1, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
FILM = Image.fromarray(PIXELS)
REQUEST = PromptRequest(
    "Is there a nodule?",
    [
        PromptDocument("a", "No pleural effusion.", 1.0),
        PromptDocument("b", "The heart is of normal size.", 0.0),
    ],
)


def trained(base: Path, out: Path, family: str, seed: int = 0, **settings: Any) -> Path:
    """Write an adapter as training with peft would leave it."""
    model = getattr(transformers, FAMILIES[family][0]).from_pretrained(base)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]}
    tuned = peft.get_peft_model(model, peft.LoraConfig(**options | settings))
    torch.manual_seed(seed)
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    tuned.save_pretrained(out)
    return out


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory) -> tuple[str, Path, Path]:
    root = tmp_path_factory.mktemp(request.param)
    base = write(request.param, root / "base")
    return request.param, base, trained(base, root / "adapter", request.param)


@pytest.fixture
def llama(tmp_path) -> tuple[Path, Path]:
    base = write("llama", tmp_path / "base")
    return base, trained(base, tmp_path / "adapter", "llama")


def engine(base: Path, **options: Any) -> LlavaEngine:
    return LlavaEngine(load_model(str(base), device="cpu", **options), max_new_tokens=3)


def first(one: LlavaEngine, policy: IFA | None = None) -> torch.Tensor:
    image = one.read_image(FILM)
    prompt = one.prompt(REQUEST, image)
    plan, _ = one.planner.plan([prompt], policy)
    return one.runner.logits([prompt.input_ids], [image], steering=plan)


@pytest.mark.slow
def test_on_every_family_it_is_peft_s_and_steered_alike(case):
    family, base, adapter = case
    plain, tuned = engine(base), engine(base, adapter=str(adapter))
    logits = first(tuned)
    assert (logits - first(plain)).abs().max() > 1e-2
    stock = getattr(transformers, FAMILIES[family][0]).from_pretrained(base)
    stock = peft.PeftModel.from_pretrained(stock, adapter).eval()
    image = tuned.read_image(FILM)
    ids = torch.tensor([tuned.prompt(REQUEST, image).input_ids])
    inputs = dict(image.tensors) if image else {}
    if marks := tuned.loaded.family.image_marks:
        token = tuned.tokenizer.convert_tokens_to_ids(tuned.prompts.image_token)
        inputs[marks] = (ids == token).long()
    with torch.inference_mode():
        expected = stock(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
    torch.testing.assert_close(logits[0, -1], expected[0, -1], atol=1e-5, rtol=0)
    steered = first(tuned, STEERED)
    assert (steered - logits).abs().max() > 1e-3
    definition = first(engine(base, adapter=str(adapter), backend="eager"), STEERED)
    torch.testing.assert_close(steered, definition, atol=1e-5, rtol=0)
    merged = engine(base, adapter=str(adapter), merge_adapter=True)
    torch.testing.assert_close(first(merged, STEERED), steered, atol=1e-4, rtol=0)
    assert not any("lora" in name for name in merged.model.state_dict())
    (answer,) = tuned.generate([REQUEST], [FILM], policy=STEERED)
    assert answer.steering.applied


@pytest.mark.slow
def test_whatever_is_kept_of_a_model_knows_its_adapter(llama, tmp_path):
    base, adapter = llama
    other = trained(base, tmp_path / "other", "llama", seed=1)
    loaded = [
        load_model(str(base), device="cpu"),
        load_model(str(base), device="cpu", adapter=str(adapter)),
        load_model(str(base), device="cpu", adapter=str(other)),
    ]
    for identity in (model_identity, profile_identity):
        names = [identity(one) for one in loaded]
        assert len({name.rpartition("@")[2] for name in names}) == 3
        assert identity(load_model(str(base), device="cpu", adapter=str(adapter))) == names[1]
        assert names[1].startswith("base+adapter@")


def test_layers_found_without_it_are_not_taken_with_it(llama, tmp_path, monkeypatch):
    base, adapter = llama
    monkeypatch.setenv("MRRAG_PROFILES", str(tmp_path / "profiles"))
    plain = load_model(str(base), device="cpu")
    keep_profile(plain, (3,), "found")
    tuned = load_model(str(base), device="cpu", adapter=str(adapter))
    assert with_known_layers(plain).critical_layers == (3,)
    assert not with_known_layers(tuned).layers_are_known
    profile = replace(
        ModelProfile(), critical_layers=(3,), identity=profile_identity(plain), note="found"
    )
    profile.save(base)
    tuned = with_known_layers(load_model(str(base), device="cpu", adapter=str(adapter)))
    assert not tuned.layers_are_known
    assert tuned.critical_layers == (1, 2)
    keep_profile(tuned, (0,), "found with it")
    assert with_known_layers(tuned).critical_layers == (0,)


def edited(adapter: Path, **values: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_of_other_weights_is_refused_by_name(llama, tmp_path):
    _, adapter = llama
    other = write("llama", tmp_path / "other", seed=1)  # the same shapes
    with pytest.raises(ModelError, match=r"was trained on .*base', and this model is .*other'"):
        load_model(str(other), device="cpu", adapter=str(adapter))
    edited(adapter, base_model_name_or_path="/elsewhere/other")  # a folder that has moved
    load_model(str(other), device="cpu", adapter=str(adapter))


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_an_adapter_that_does_not_fit_is_refused_by_name(llama, tmp_path, family):
    _, adapter = llama
    edited(adapter, base_model_name_or_path=None)
    other = write(family, tmp_path / "another")
    with pytest.raises(ModelError, match="adapter 'adapter' does not fit this model"):
        load_model(str(other), device="cpu", adapter=str(adapter))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: edited(f, peft_type="PREFIX_TUNING"), "of type 'PREFIX_TUNING', and only LoRA"),
        (lambda f: edited(f, r=2), "does not fit this model"),
        (lambda f: edited(f, target_modules=["nowhere"]), "does not fit this model"),
        (lambda f: (f / "adapter_config.json").write_text("["), "cannot be read"),
        (lambda f: (f / "adapter_config.json").unlink(), "cannot be read"),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "pickles are not opened",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "does not fit"),
    ],
    ids=["another kind", "rank", "targets", "no JSON", "no file", "a pickle", "damaged"],
)
def test_what_is_wrong_with_an_adapter_is_said_in_one_line(llama, spoil, match):
    base, adapter = llama
    spoil(adapter)
    with pytest.raises(ModelError, match=match) as caught:
        load_model(str(base), device="cpu", adapter=str(adapter))
    assert "\n" not in str(caught.value)


def test_options_that_go_together(llama, monkeypatch):
    base, adapter = llama
    with pytest.raises(ModelError, match="merge_adapter goes with adapter"):
        load_model(str(base), device="cpu", merge_adapter=True)
    with pytest.raises(ModelError, match="not merged into weights of int8"):
        load_model(
            str(base), device="cpu", adapter=str(adapter), merge_adapter=True, quantization="int8"
        )
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else found(name, *a)
    )
    with pytest.raises(ModelError, match=r"needs the package peft; .*\[adapter\]"):
        load_model(str(base), device="cpu", adapter=str(adapter))


def test_a_generator_of_llamaindex_takes_it(llama):
    from mrrag_llamaindex import MRRAGLLaVA

    base, adapter = llama
    with pytest.warns(UserWarning, match="text-only"):
        llm = MRRAGLLaVA(model=str(base), adapter=str(adapter), device="cpu", max_new_tokens=2)
    assert llm.metadata.model_name == f"{base}+{adapter}"
    assert llm.settings()["adapter"] == str(adapter)
    with pytest.raises(ModelError, match="adapter says what is loaded"):
        llm.adapter = None
