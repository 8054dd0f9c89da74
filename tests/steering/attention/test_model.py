"""Steering of a real LLaVA, in forward and in generate."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.masking_utils import AttentionMaskInterface

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def real(inputs):
    """Positions that are not padding."""
    return inputs["attention_mask"].bool()


def test_every_weight_loads_as_in_the_stock_class(rows_model, sdpa_model):
    # transformers renames checkpoint keys by class; a foreign class would lose its lm_head.
    ours, stock = rows_model.state_dict(), sdpa_model.state_dict()
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_only_the_text_layers_change_implementation(rows_model):
    assert rows_model.config.text_config._attn_implementation == "mrrag_ifa"
    assert rows_model.config.vision_config._attn_implementation == "sdpa"
    assert rows_model.model.vision_tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@pytest.mark.parametrize("kind", ["none", "lambda 0", "strength 0"])
@pytest.mark.parametrize("size", [1, 3])
def test_off_equals_stock_bit_for_bit(load, stock_of, toy, backend, kind, size):
    prompts = toy.prompts[:size]
    inputs = toy.batch(prompts)
    plan = {
        "none": None,
        "lambda 0": toy.plan(prompts, [[0.0] * len(p.spans.documents) for p in prompts]),
        "strength 0": toy.plan(prompts, ifa=IFA(strength=0.0)),
    }[kind]
    stock = toy.logits(stock_of(backend), inputs)
    assert torch.equal(toy.logits(load(backend), inputs, plan), stock)


@pytest.mark.parametrize("backend", ["rows", "flex"])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("question_rows", ["question", "to_end"])
@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_backend_equals_the_eager_definition(
    load, eager_model, sdpa_model, toy, backend, size, question_rows, strength
):
    prompts = toy.prompts[:size]
    inputs, ifa = toy.batch(prompts), IFA(strength=strength, question_rows=question_rows)
    plan = toy.plan(prompts, ifa=ifa)
    ours = toy.logits(load(backend), inputs, plan)
    eager = toy.logits(eager_model, inputs, toy.plan(prompts, ifa=ifa))
    torch.testing.assert_close(ours[real(inputs)], eager[real(inputs)], **TOLERANCE)
    plan.require_applied()
    assert plan.report.applications == dict.fromkeys(toy.critical, 1)
    effect = (ours - toy.logits(sdpa_model, inputs))[:, -1].abs().amax(dim=1)
    assert effect.min() > 0.03  # three thousand times the tolerance


@pytest.mark.parametrize("backend", ["rows", "flex"])
def test_left_padded_batch_equals_single_rows(load, toy, backend):
    model = load(backend)
    together = toy.logits(model, toy.batch(toy.prompts), toy.plan(toy.prompts))
    for row, prompt in enumerate(toy.prompts):
        plan = toy.plan([prompt], [toy.lambdas[row]])
        alone = toy.logits(model, toy.batch([prompt]), plan)
        torch.testing.assert_close(together[row, -len(prompt.ids) :], alone[0], **TOLERANCE)


@pytest.mark.parametrize("backend", ["rows", "flex"])
def test_one_row_of_a_batch_may_be_unsteered(load, stock_of, toy, backend):
    lambdas = [toy.lambdas[0], (0.0, 0.0), toy.lambdas[2]]
    inputs = toy.batch(toy.prompts)
    steered = toy.logits(load(backend), inputs, toy.plan(toy.prompts, lambdas))
    stock = toy.logits(stock_of(backend), inputs)
    assert torch.equal(steered[1], stock[1])
    assert (steered[[0, 2], -1] - stock[[0, 2], -1]).abs().amax(dim=1).min() > 0.03


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
def test_nothing_before_the_question_changes(load, stock_of, toy, backend):
    prompt, inputs = toy.prompts[0], toy.batch(toy.prompts[:1])
    start = prompt.spans.question[0]
    steered = toy.logits(load(backend), inputs, toy.plan([prompt]))[0]
    stock = toy.logits(stock_of(backend), inputs)[0]
    assert torch.equal(steered[:start], stock[:start])
    assert not torch.equal(steered[start], stock[start])


def test_image_features_are_those_of_the_stock_model(rows_model, sdpa_model, toy):
    pixels = toy.batch(toy.prompts)["pixel_values"]
    with torch.inference_mode():
        ours, stock = (m.get_image_features(pixels).pooler_output for m in (rows_model, sdpa_model))
    assert all(torch.equal(a, b) for a, b in zip(ours, stock, strict=True))


def test_reversed_relevance_moves_the_answer_the_other_way(eager_model, toy):
    """The top document gains attention from the question, in each critical layer."""
    prompt, inputs = toy.prompts[1], toy.batch(toy.prompts[1:2])
    question = slice(*prompt.spans.question)

    def share(plan, document):
        with torch.inference_mode():
            attentions = eager_model(**inputs, steering=plan, output_attentions=True).attentions
        columns = slice(*prompt.spans.documents[document])
        return attentions[toy.critical[0]][0, :, question, columns].sum(-1).mean()

    for document, lambdas in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        assert share(toy.plan([prompt], [lambdas]), document) > share(None, document) + 0.01


# ---- prefill in parts, decode


def prefill(model, inputs, plan, cuts, cache):
    """Run a prompt through a cache in several calls; the image goes with the first."""
    length = inputs["input_ids"].shape[1]
    logits = []
    for start, stop in zip((0, *cuts), (*cuts, length), strict=True):
        part = {
            "input_ids": inputs["input_ids"][:, start:stop],
            "attention_mask": inputs["attention_mask"][:, :stop],
            "past_key_values": cache,
            "position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)[:, start:stop],
        }
        if start == 0:
            part["pixel_values"] = inputs["pixel_values"]
        logits.append(model(**part, steering=plan).logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@pytest.mark.parametrize("cuts", [(), (20,), (24, 25, 26, 27), (26, 28)])
@torch.inference_mode()
def test_chunked_prefill_equals_the_whole(load, toy, backend, cuts):
    model, inputs = load(backend), toy.batch(toy.prompts)
    whole = toy.plan(toy.prompts)
    expected = prefill(model, inputs, whole, (), DynamicCache(config=model.config))
    plan = toy.plan(toy.prompts)
    found = prefill(model, inputs, plan, cuts, DynamicCache(config=model.config))
    torch.testing.assert_close(found[real(inputs)], expected[real(inputs)], **TOLERANCE)
    assert plan.report.rows == whole.report.rows
    plan.require_applied()


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@torch.inference_mode()
def test_prefill_token_by_token_equals_the_whole(load, toy, backend):
    """Calls of one unpadded row get no mask at all; the question is among them."""
    model, prompt, inputs = load(backend), toy.prompts[0], toy.batch(toy.prompts[:1])
    whole, plan = toy.plan([prompt]), toy.plan([prompt])
    cuts = range(prompt.spans.question[0] - 1, len(prompt.ids))
    expected = prefill(model, inputs, whole, (), DynamicCache(config=model.config))
    found = prefill(model, inputs, plan, cuts, DynamicCache(config=model.config))
    torch.testing.assert_close(found, expected, **TOLERANCE)
    rows = len(prompt.ids) - prompt.spans.question[0]
    assert plan.report.applications == dict.fromkeys(toy.critical, rows)
    plan.require_applied()


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@torch.inference_mode()
def test_decode_steps_are_untouched(load, stock_of, toy, backend):
    model, stock, inputs = load(backend), stock_of(backend), toy.batch(toy.prompts)
    plan = toy.plan(toy.prompts)
    step = {
        "input_ids": torch.tensor([[11], [12], [13]]),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(3, 1).long()], dim=1),
    }
    logits = []
    for decoder, steering in [(model, {"steering": plan}), (model, {}), (stock, {})]:
        cache = DynamicCache(config=model.config)
        prefill(model, inputs, toy.plan(toy.prompts), (), cache)
        logits.append(decoder(**step, past_key_values=cache, **steering).logits)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert plan.report.applications == {}


# ---- generate


def greedy(model, inputs, **options):
    return model.generate(
        **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0, **options
    )


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
def test_generate_carries_the_plan_through_prefill_and_decode(load, sdpa_model, toy, backend):
    model = load(backend)
    inputs, plan = toy.batch(toy.prompts), toy.plan(toy.prompts)
    options = {"return_dict_in_generate": True, "output_logits": True}
    out = greedy(model, inputs, steering=plan, **options)
    plan.require_applied()
    assert plan.report.applications == dict.fromkeys(toy.critical, 1)  # prefill, and no more
    first = toy.logits(model, inputs, toy.plan(toy.prompts))[:, -1]
    torch.testing.assert_close(out.logits[0], first, **TOLERANCE)
    stock = greedy(sdpa_model, inputs, **options)
    assert (out.logits[0] - stock.logits[0]).abs().amax(dim=1).min() > 0.03
    # The steered keys and values of the prompt still speak in later steps.
    assert not torch.equal(out.logits[1], stock.logits[1])


def test_generate_in_a_batch_equals_generate_alone(rows_model, toy):
    together = greedy(rows_model, toy.batch(toy.prompts), steering=toy.plan(toy.prompts))
    for row, prompt in enumerate(toy.prompts):
        plan = toy.plan([prompt], [toy.lambdas[row]])
        alone = greedy(rows_model, toy.batch([prompt]), steering=plan)
        assert alone[0, -5:].tolist() == together[row, -5:].tolist()


@pytest.mark.parametrize("chunk", [5, 16])
def test_generate_with_chunked_prefill_equals_the_whole(rows_model, stock_of, toy, chunk):
    inputs, plan = toy.batch(toy.prompts), toy.plan(toy.prompts)
    options = {"return_dict_in_generate": True, "output_logits": True}
    stock = [
        greedy(stock_of("rows"), inputs, **options, **cut).logits[0]
        for cut in ({}, {"prefill_chunk_size": chunk})
    ]
    if not torch.allclose(*stock, **TOLERANCE):
        pytest.skip("the chunked prefill of this transformers is wrong without any steering, too")
    whole = greedy(rows_model, inputs, steering=toy.plan(toy.prompts), **options)
    parts = greedy(rows_model, inputs, steering=plan, prefill_chunk_size=chunk, **options)
    plan.require_applied()
    torch.testing.assert_close(parts.logits[0], whole.logits[0], **TOLERANCE)
    assert parts.sequences.tolist() == whole.sequences.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
    ],
)
def test_generation_that_repeats_rows_is_refused(rows_model, toy, options):
    with pytest.raises(SteeringError, match="the plan has 3 rows, the batch 6"):
        rows_model.generate(
            **toy.batch(toy.prompts), steering=toy.plan(toy.prompts), max_new_tokens=2, **options
        )


def test_static_cache_is_refused(rows_model, toy):
    with pytest.raises(SteeringError, match="dynamic cache"):
        greedy(
            rows_model,
            toy.batch(toy.prompts),
            steering=toy.plan(toy.prompts),
            cache_implementation="static",
        )


@torch.inference_mode()
def test_static_cache_is_refused_in_chunks_too(rows_model, toy):
    # A chunk of 20 in a cache of 64 looks like rows 44..64: beyond the prompt, never steered.
    cache = StaticCache(config=rows_model.config, max_cache_len=64)
    with pytest.raises(SteeringError, match="dynamic cache"):
        prefill(rows_model, toy.batch(toy.prompts), toy.plan(toy.prompts), (20,), cache)


def test_unknown_keyword_of_generate_is_still_refused(rows_model, toy):
    with pytest.raises(ValueError, match="steerign"):
        greedy(rows_model, toy.batch(toy.prompts), steerign=toy.plan(toy.prompts))


# ---- nothing falls back silently


def test_plan_that_a_stock_model_ignores_is_an_error(sdpa_model, toy):
    plan = toy.plan(toy.prompts)
    toy.logits(sdpa_model, toy.batch(toy.prompts), plan)  # accepted, and without effect
    with pytest.raises(SteeringError, match="was not applied in layers"):
        plan.require_applied()


@pytest.mark.parametrize(
    ("backend", "size"),
    # Rows alone: without padding, no mask is the causal shortcut of SDPA.
    [("rows", 3), ("eager", 1), ("eager", 3), ("flex", 1), ("flex", 3)],
)
def test_lost_mask_function_is_noticed(load, toy, monkeypatch, backend, size):
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, BACKENDS[backend].registered)
    with pytest.raises(SteeringError, match=r"no (attention|block) mask"):
        toy.logits(load(backend), toy.batch(toy.prompts[:size]), toy.plan(toy.prompts[:size]))


def test_layer_that_the_model_does_not_have_is_refused(rows_model, toy):
    with pytest.raises(SteeringError, match=r"layers \[4\] do not exist: the model has 4"):
        toy.logits(rows_model, toy.batch(toy.prompts), toy.plan(toy.prompts, layers=(1, 4)))


def test_right_padded_inputs_are_refused(rows_model, toy):
    inputs = toy.batch(toy.prompts)
    inputs["attention_mask"] = inputs["attention_mask"].flip(-1)
    with pytest.raises(SteeringError, match=r"rows \[.*\] is not the left padding"):
        toy.logits(rows_model, inputs, toy.plan(toy.prompts))


def test_plan_of_a_shorter_prompt_is_refused(rows_model, toy):
    with pytest.raises(SteeringError):
        toy.logits(rows_model, toy.batch(toy.prompts[2:]), toy.plan(toy.prompts[1:2]))


# ---- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_model_is_steered_as_the_full_one(rows_model, sdpa_model, toy, dtype):
    inputs = toy.batch(toy.prompts)
    half = copy.deepcopy(rows_model).to(dtype)
    steered = toy.logits(half, inputs, toy.plan(toy.prompts))[:, -1].float()
    full = toy.logits(rows_model, inputs, toy.plan(toy.prompts))[:, -1]
    stock = toy.logits(sdpa_model, inputs)[:, -1]
    assert steered.isfinite().all()
    # Rounded weights alone move the logits; still nearer to steered than to unsteered.
    assert ((steered - full).norm(dim=1) < 0.6 * (steered - stock).norm(dim=1)).all()


# ---- concurrency


def test_threads_with_different_plans_share_one_model(rows_model, toy):
    inputs = toy.batch(toy.prompts)
    strengths = [0.0, 0.5, 1.0, 2.0]

    def run(strength: float) -> tuple[torch.Tensor, SteeringPlan]:
        plan = toy.plan(toy.prompts, ifa=IFA(strength=strength))
        return toy.logits(rows_model, inputs, plan), plan

    alone = {strength: run(strength)[0] for strength in strengths}
    jobs = strengths * 8
    with ThreadPoolExecutor(max_workers=4) as pool:
        for strength, (logits, plan) in zip(jobs, pool.map(run, jobs), strict=True):
            assert torch.equal(logits, alone[strength])
            assert plan.report.applications == (dict.fromkeys(toy.critical, 1) if strength else {})
    assert (alone[0.5] - alone[2.0])[:, -1].abs().max() > 0.01
