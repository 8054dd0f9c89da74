"""Families of models: steered alike, or refused by name before anything runs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import BACKENDS, register
from mrrag_llamaindex.steering.attention.support import check_steerable
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans

LAYERS = 4
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
GEMMA_LAYERS = ["sliding_attention", "full_attention"] * (LAYERS // 2)
GEMMA = {**TEXT, "sliding_window": 8, "layer_types": GEMMA_LAYERS, "query_pre_attn_scalar": 8}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [0],
}
QWEN_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}

FAMILIES: dict[str, dict[str, Any]] = {
    "MistralForCausalLM": {**TEXT, "sliding_window": 8},
    "LlamaForCausalLM": TEXT,
    "Qwen2ForCausalLM": TEXT,
    "LlavaNextForConditionalGeneration": {
        "text_config": {"model_type": "mistral", "sliding_window": None, **TEXT},
        "vision_config": CLIP,
        "image_token_index": 90,
    },
    "LlavaOnevisionForConditionalGeneration": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": SIGLIP,
        "image_token_index": 90,
        "video_token_index": 91,
    },
    "Qwen2_5_VLForConditionalGeneration": {
        "text_config": {**TEXT, "rope_parameters": QWEN_ROPE},
        "vision_config": QWEN_VISION,
        "image_token_id": 90,
        "video_token_id": 91,
        "vision_start_token_id": 92,
        "vision_end_token_id": 93,
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": GEMMA,
        "vision_config": SIGLIP,
        "mm_tokens_per_image": 4,
        "image_token_index": 90,
    },
}
WITH_WINDOW = ["MistralForCausalLM", "Gemma3ForConditionalGeneration"]
WITHOUT_FLEX = ["Qwen2_5_VLForConditionalGeneration"]
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@functools.cache
def build(name: str) -> Any:
    """One set of weights per family, in our class."""
    register()
    torch.manual_seed(0)
    base = getattr(transformers, name)
    model = steerable_class(base)._from_config(
        base.config_class(**FAMILIES[name]),
        attn_implementation=attention_implementation(base),
    )
    return model.eval()


def on(name: str, implementation: str) -> Any:
    model = build(name)
    parts = list(model.config.sub_configs)
    model.set_attn_implementation(
        {part: implementation if part == "text_config" else "sdpa" for part in parts}
        if parts
        else implementation
    )
    return model


PROMPTS = (
    PromptSpans(((2, 9), (10, 24), (24, 28)), (31, 37), 40),
    PromptSpans(((3, 12),), (14, 20), 22),
)


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 80, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 40, dtype=torch.long)
    ids[1, :18], mask[1, :18] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def plan(layers=range(LAYERS)) -> SteeringPlan:
    return SteeringPlan.build(PROMPTS, [(0.6, 0.0, 1.0), (0.8,)], IFA(), layers, 40)


def logits(model: Any, steering: SteeringPlan | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs(), steering=steering).logits


REAL = inputs()["attention_mask"].bool()


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_accepted_and_its_text_layers_are_ours(name):
    model = on(name, BACKENDS["rows"].registered)
    check_steerable(model)
    asked = attention_implementation(getattr(transformers, name))
    if model.config.sub_configs:
        assert asked == {"text_config": "mrrag_ifa", "vision_config": "sdpa"}
        assert model.config.vision_config._attn_implementation == "sdpa"
    else:
        assert asked == "mrrag_ifa"
    assert model.config.get_text_config()._attn_implementation == "mrrag_ifa"


STOCK = {"rows": "sdpa", "eager": "eager", "flex": "flex_attention"}
CASES = [
    (name, backend)
    for name in FAMILIES
    for backend in BACKENDS
    if backend != "flex" or name not in WITHOUT_FLEX
]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_off_equals_stock_bit_for_bit(name, backend):
    expected = logits(on(name, STOCK[backend]))
    assert torch.equal(logits(on(name, BACKENDS[backend].registered)), expected)


@pytest.mark.parametrize("name", WITHOUT_FLEX)
def test_class_without_flex_is_refused_by_name(name):
    with pytest.raises(SteeringError, match=f"{name} does not support FlexAttention"):
        attention_implementation(getattr(transformers, name), "flex")


@pytest.mark.parametrize(("name", "backend"), [case for case in CASES if case[1] != "eager"])
def test_backend_equals_the_definition_in_every_layer(name, backend):
    steering = plan()
    rows = logits(on(name, BACKENDS[backend].registered), steering)
    steering.require_applied()
    assert steering.report.applications == dict.fromkeys(range(LAYERS), 1)
    eager = logits(on(name, BACKENDS["eager"].registered), plan())
    torch.testing.assert_close(rows[REAL], eager[REAL], **TOLERANCE)
    stock = logits(on(name, "sdpa"))
    assert (rows - stock)[:, -1].abs().amax(dim=1).min() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_carries_the_plan(name):
    model, steering = on(name, BACKENDS["rows"].registered), plan()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    out = model.generate(
        **inputs(), steering=steering, output_logits=True, return_dict_in_generate=True, **options
    )
    steering.require_applied()
    assert steering.report.applications == dict.fromkeys(range(LAYERS), 1)
    expected = logits(model, plan())[:, -1]
    torch.testing.assert_close(out.logits[0], expected, **TOLERANCE)


# ---- sliding windows


def by_hand(model: Any, steering: SteeringPlan | None) -> torch.Tensor:
    """Mistral's first layer for row 0, with the window mask written out; returns its attention."""
    attention, window = model.model.layers[0].self_attn, model.config.sliding_window
    hidden = model.model.layers[0].input_layernorm(
        model.model.embed_tokens(inputs()["input_ids"][:1])
    )
    cos, sin = model.model.rotary_emb(hidden, torch.arange(40)[None])

    def heads(projection: Any) -> torch.Tensor:
        return projection(hidden).view(40, -1, 8).transpose(0, 1)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-x[..., 4:], x[..., :4]], dim=-1)
        return x * cos[0] + half * sin[0]

    query, key = rotated(heads(attention.q_proj)), rotated(heads(attention.k_proj))
    scores = torch.stack([query[h] @ key[h // 2].T for h in range(4)]) / 8**0.5
    if steering is not None:
        lam = steering.column_weights[0]
        for row in steering.steered_rows[0].nonzero().flatten().tolist():
            scores[:, row] += lam * scores[:, row].abs()
    for row in range(40):
        scores[:, row, row + 1 :] = -torch.inf
        scores[:, row, : max(0, row - window + 1)] = -torch.inf
    return scores.softmax(-1)


@pytest.mark.parametrize("steered", [False, True])
@torch.inference_mode()
def test_eager_under_a_window_equals_a_computation_by_hand(steered):
    model = on("MistralForCausalLM", BACKENDS["eager"].registered)
    # The last document ends 4 tokens before the question: inside the window of its first rows.
    found = model(
        input_ids=inputs()["input_ids"][:1],
        steering=plan_of_first_row() if steered else None,
        output_attentions=True,
    ).attentions[0][0]
    expected = by_hand(model, plan_of_first_row() if steered else None)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    if steered:
        assert (expected - by_hand(model, None))[:, 31:34].abs().max() > 0.01


def plan_of_first_row() -> SteeringPlan:
    near = PromptSpans(((2, 9), (10, 24), (24, 30)), (31, 37), 40)
    return SteeringPlan.build([near], [(1.0, 0.6, 0.9)], IFA(), range(LAYERS), 40)


@pytest.mark.parametrize("name", WITH_WINDOW)
@pytest.mark.parametrize("window", [33, 36])
@torch.inference_mode()
def test_decode_over_a_full_window_steers_nothing(name, window):
    """In a sliding layer a decode step has `window` keys: as if it stood in the question."""
    model = on(name, BACKENDS["rows"].registered)
    text = model.config.get_text_config()
    before = text.sliding_window
    layers = [m for m in model.modules() if getattr(m, "sliding_window", None) == before]
    for part in (text, *layers):
        part.sliding_window = window
    try:
        step = {
            "input_ids": torch.tensor([[11], [12]]),
            "attention_mask": torch.cat([inputs()["attention_mask"], torch.ones(2, 1).long()], 1),
        }
        found = []
        for steering in (plan(), None):
            cache = DynamicCache(config=model.config)
            model(**inputs(), past_key_values=cache, steering=plan())
            assert any(layer.is_sliding for layer in cache.layers)
            found.append(model(**step, past_key_values=cache, steering=steering).logits)
            assert steering is None or steering.report.applications == {}
        assert torch.equal(*found)
    finally:
        for part in (text, *layers):
            part.sliding_window = before


# ---- refused by name


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Gemma2ForCausalLM": (
        {**TEXT, "attn_logit_softcapping": 50.0},
        r"soft-capped \(attn_logit_softcapping = 50",
    ),
    "MambaForCausalLM": ({"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}, "linear"),
    "Qwen3NextForCausalLM": (
        {
            **TEXT,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 0,
        },
        r"layers \[0, 2\] are \['linear_attention'\], not attention",
    ),
    "T5ForConditionalGeneration": (
        {"vocab_size": 96, "d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8},
        "an encoder reads the prompt",
    ),
    "BloomForCausalLM": (
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 2},
        "does not go through the transformers attention interface",
    ),
    "GptOssForCausalLM": (
        {**TEXT, "num_local_experts": 2, "num_experts_per_tok": 1},
        "does not go through the transformers attention interface with SDPA",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_model_that_cannot_be_steered_is_refused_by_name_without_a_forward(name):
    arguments, reason = REFUSED[name]
    base = getattr(transformers, name)
    with torch.device("meta"):  # nothing could run there
        model = base(base.config_class(**arguments))
    with pytest.raises(SteeringError, match=f"{name}.*cannot be steered.*{reason}"):
        check_steerable(model)


def test_text_model_inside_a_steerable_class_is_read_too():
    """LLaVA itself is fine; a soft-capped text model in it is not."""
    config = transformers.LlavaConfig(
        text_config={"model_type": "gemma2", **TEXT, "attn_logit_softcapping": 30.0},
        vision_config=CLIP,
    )
    with torch.device("meta"):
        model = steerable_class(transformers.LlavaForConditionalGeneration)(config)
    with pytest.raises(SteeringError, match=r"LlavaForConditionalGeneration .*gemma2.*soft-capped"):
        check_steerable(model)


def test_layers_that_attend_to_the_image_beside_the_text_are_refused():
    config = transformers.MllamaConfig(
        text_config={**TEXT, "cross_attention_layers": [1]},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
        },
    )
    with torch.device("meta"):
        model = transformers.MllamaForConditionalGeneration(config)
    with pytest.raises(SteeringError, match=r"Mllama.*layers \[1\] attend to the image"):
        check_steerable(model)


def test_attention_with_sinks_is_refused():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
    model.model.layers[1].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(SteeringError, match=r"LlamaForCausalLM.*sinks"):
        check_steerable(model)


def test_layer_without_attention_is_found_whatever_the_configuration_says():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
    check_steerable(model)
    model.model.layers[2].self_attn = torch.nn.Identity()
    with pytest.raises(SteeringError, match=r"LlamaForCausalLM.*layers \[2\] hold no attention"):
        check_steerable(model)
