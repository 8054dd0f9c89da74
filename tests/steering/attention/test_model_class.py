from __future__ import annotations

import inspect

import pytest
import torch
from transformers import (
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    T5ForConditionalGeneration,
)

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    steerable_class,
)
from mrrag_llamaindex.steering.attention.registry import register
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans


def test_signature_keeps_every_parameter_and_adds_one():
    stock = inspect.signature(LlavaForConditionalGeneration.forward).parameters
    ours = inspect.signature(steerable_class(LlavaForConditionalGeneration).forward).parameters
    assert set(ours) - set(stock) == {"steering"}
    assert [name for name in ours if name != "steering"] == list(stock)


def test_one_subclass_per_class():
    ours = steerable_class(LlavaForConditionalGeneration)
    assert ours is steerable_class(LlavaForConditionalGeneration)
    assert ours is steerable_class(ours)
    assert issubclass(ours, LlavaForConditionalGeneration)


def test_saved_copy_names_the_stock_architecture(rows_model, tmp_path):
    rows_model.save_pretrained(tmp_path)
    again, info = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert again.config.architectures == ["LlavaForConditionalGeneration"]
    assert again.config.text_config._attn_implementation == "sdpa"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_model_whose_attention_cannot_be_steered_is_refused_by_name():
    with pytest.raises(SteeringError, match="T5ForConditionalGeneration cannot be steered"):
        steerable_class(T5ForConditionalGeneration)


def test_unknown_backend_is_refused():
    with pytest.raises(SteeringError, match="unknown steering backend 'flash'"):
        attention_implementation(LlavaForConditionalGeneration, "flash")


def test_steering_a_model_on_stock_attention_is_refused_before_it_runs(model_folder, toy):
    model = steerable_class(LlavaForConditionalGeneration).from_pretrained(model_folder)
    with pytest.raises(SteeringError, match="'sdpa' attention, which ignores"):
        toy.logits(model, toy.batch(toy.prompts), toy.plan(toy.prompts))


def test_register_may_be_repeated(rows_model, toy):
    before = toy.logits(rows_model, toy.batch(toy.prompts), toy.plan(toy.prompts))
    register()
    register()
    after = toy.logits(rows_model, toy.batch(toy.prompts), toy.plan(toy.prompts))
    assert torch.equal(before, after)


def test_text_only_model_is_carried_by_the_same_function():
    register()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    name = attention_implementation(MistralForCausalLM)
    assert name == "mrrag_ifa"
    model_class = steerable_class(MistralForCausalLM)
    model = model_class._from_config(config, attn_implementation=name).eval()
    ids = torch.randint(3, 60, (1, 12))
    spans = PromptSpans(((1, 4), (4, 7)), (8, 11), 12)
    plan = SteeringPlan.build([spans], [(1.0, 0.0)], IFA(), (0, 1), 12)
    with torch.inference_mode():
        steered, stock = model(ids, steering=plan).logits, model(ids).logits
    plan.require_applied()
    assert torch.equal(steered[:, :8], stock[:, :8])
    assert not torch.allclose(steered[:, 8:], stock[:, 8:], atol=1e-3)


@pytest.mark.parametrize("name", sorted({CACHE, "past_key_values"}))
def test_sliding_cache_that_forgot_the_documents_is_refused(name):
    register()
    config = MistralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = steerable_class(MistralForCausalLM)._from_config(
        config, attn_implementation="mrrag_ifa"
    )
    ids = torch.randint(3, 60, (1, 12))
    plan = SteeringPlan.build(
        [PromptSpans(((1, 4), (4, 7)), (8, 11), 12)], [(1.0, 0.0)], IFA(), (0, 1), 12
    )
    with torch.inference_mode():
        cache = model.eval()(ids[:, :8], use_cache=True).past_key_values
        with pytest.raises(SteeringError, match="keeps only 4 tokens"):
            model(ids[:, 8:], **{name: cache}, steering=plan)
