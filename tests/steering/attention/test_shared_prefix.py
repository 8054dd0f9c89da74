"""Rows that share a prefix: one prefill of it, then the rows' suffixes padded behind it."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.model_class import steerable_class
from mrrag_llamaindex.steering.attention.registry import register
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


class Rows:
    """One image and two documents, then a third document (straddling) and a question per row."""

    def __init__(self, toy, prefix: int = 20) -> None:
        generator = torch.Generator().manual_seed(5)
        words = functools.partial(torch.randint, 10, 80, generator=generator)
        base = toy.prompts[0]
        head = [1, *[90] * toy.image_tokens, *words((prefix - 1 - toy.image_tokens,)).tolist()]
        self.prefix, self.image = prefix, base.image
        self.ids, self.spans, self.lambdas = [], [], []
        # (rest of the straddling document, question); the second row is the longest
        for rest, question, lambdas in [
            (2, 3, (1.0, 0.0, 0.4)),
            (5, 6, (0.0, 0.3, 1.0)),
            (0, 2, (0.5, 1.0, 0.0)),
        ]:
            ids = [*head, *words((rest + question + 1,)).tolist()]
            start = prefix + rest
            documents = ((6, 10), (10, 15), (16, start))
            self.ids.append(ids)
            self.spans.append(PromptSpans(documents, (start, start + question), len(ids)))
            self.lambdas.append(lambdas)
        self.length = max(map(len, self.ids))

    def plan(self, rows=(0, 1, 2), shared=True, ifa=None):
        return SteeringPlan.build(
            [self.spans[row] for row in rows],
            [self.lambdas[row] for row in rows],
            ifa or IFA(),
            (1, 2),
            self.length if shared else max(len(self.ids[row]) for row in rows),
            shared_prefix=self.prefix if shared else 0,
        )

    def batch(self, rows=(0, 1, 2)):
        """``[prefix | padding | suffix]`` of the rows."""
        ids, mask = [], []
        for row in rows:
            gap = self.length - len(self.ids[row])
            ids.append([*self.ids[row][: self.prefix], *[0] * gap, *self.ids[row][self.prefix :]])
            mask.append([1] * self.prefix + [0] * gap + [1] * (self.length - self.prefix - gap))
        return torch.tensor(ids), torch.tensor(mask)

    def cache(self, model, count=3):
        """Prefill the prefix once, at batch 1, and repeat its cache."""
        cache = DynamicCache(config=model.config)
        model(
            input_ids=torch.tensor([self.ids[0][: self.prefix]]),
            pixel_values=self.image[None],
            past_key_values=cache,
        )
        cache.batch_repeat_interleave(count)
        return cache

    def alone(self, model, row, ifa=None):
        """The whole prompt of one row, without any cache."""
        ids = torch.tensor([self.ids[row]])
        plan = self.plan((row,), shared=False, ifa=ifa)
        return model(
            input_ids=ids, pixel_values=self.image[None], use_cache=False, steering=plan
        ).logits[0]


@pytest.fixture(scope="module")
def rows(toy):
    return Rows(toy)


def suffix(model, rows, plan, mask=None, ids=None):
    full, stock_mask = rows.batch()
    mask = stock_mask if mask is None else mask
    return model(
        input_ids=(full if ids is None else ids)[:, rows.prefix :],
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, rows.prefix :],
        past_key_values=rows.cache(model),
        steering=plan,
    ).logits


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@pytest.mark.parametrize("question_rows", ["question", "to_end"])
@torch.inference_mode()
def test_suffixes_behind_a_repeated_cache_equal_the_rows_alone(load, rows, backend, question_rows):
    model, ifa = load(backend), IFA(question_rows=question_rows)
    plan = rows.plan(ifa=ifa)
    logits = suffix(model, rows, plan)
    plan.require_applied()
    unsteered = suffix(model, rows, None)
    for row in range(3):
        tokens = len(rows.ids[row]) - rows.prefix
        expected = rows.alone(model, row, ifa)[rows.prefix :]
        torch.testing.assert_close(logits[row, -tokens:], expected, **TOLERANCE)
        assert (logits[row, -1] - unsteered[row, -1]).abs().max() > 0.03


@pytest.mark.parametrize("backend", ["rows", "eager", "flex"])
@torch.inference_mode()
def test_generate_from_a_repeated_cache_equals_the_rows_alone(load, rows, backend):
    model, plan = load(backend), rows.plan()
    ids, mask = rows.batch()
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    together = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=rows.cache(model),
        steering=plan,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    plan.require_applied()
    assert plan.report.applications == {1: 1, 2: 1}
    for row in range(3):
        alone = model.generate(
            input_ids=torch.tensor([rows.ids[row]]),
            attention_mask=torch.ones(1, len(rows.ids[row]), dtype=torch.long),
            pixel_values=rows.image[None],
            steering=rows.plan((row,), shared=False),
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        assert together.sequences[row, -5:].tolist() == alone.sequences[0, -5:].tolist()
        for ours, expected in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[row], expected[0], **TOLERANCE)


@torch.inference_mode()
def test_a_plan_with_a_gap_also_fits_the_whole_batch_at_once(rows_model, rows):
    """The layout is the plan's; whether a cache brought the prefix is not."""
    ids, mask = rows.batch()
    plan = rows.plan()
    logits = rows_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        pixel_values=rows.image[None].repeat(3, 1, 1, 1),
        steering=plan,
    ).logits
    plan.require_applied()
    for row in range(3):
        expected = rows.alone(rows_model, row)
        torch.testing.assert_close(logits[row][mask[row].bool()], expected, **TOLERANCE)


# ---- where the gap stands


@pytest.mark.parametrize("wrong", ["left padding", "one too early", "one too late", "no gap"])
def test_gap_in_another_place_is_refused(rows_model, rows, wrong):
    _, mask = rows.batch()
    moved = {
        "left padding": mask.sort(dim=1).values,
        "one too early": mask.roll(-1, dims=1),
        "one too late": mask.roll(1, dims=1),
        "no gap": torch.ones_like(mask),
    }[wrong]
    with (
        torch.inference_mode(),
        pytest.raises(SteeringError, match=r"rows \[.*behind the 20 tokens of the shared prefix"),
    ):
        suffix(rows_model, rows, rows.plan(), mask=moved)


def test_gap_under_a_plan_of_left_padding_is_refused(rows_model, rows):
    plan = SteeringPlan.build(rows.spans, rows.lambdas, IFA(), (1, 2), rows.length)
    with torch.inference_mode(), pytest.raises(SteeringError, match="is not the left padding"):
        suffix(rows_model, rows, plan)


def test_suffix_without_a_mask_is_refused(rows_model, rows):
    # transformers would build a causal mask of its own, in which padding is text.
    ids, _ = rows.batch()
    with torch.inference_mode(), pytest.raises(SteeringError, match="no attention mask"):
        rows_model(
            input_ids=ids[:, rows.prefix :],
            past_key_values=rows.cache(rows_model),
            steering=rows.plan(),
        )


# ---- sliding windows


def sliding_model(window: int):
    register()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        sliding_window=window,
    )
    model_class = steerable_class(MistralForCausalLM)
    return model_class._from_config(config, attn_implementation="mrrag_ifa").eval()


@pytest.mark.parametrize("window", [24, 40])
def test_window_that_would_count_the_gap_is_refused(rows, window):
    ids, mask = rows.batch()
    model = sliding_model(window)
    with torch.inference_mode():
        if rows.length <= window:
            model(ids, attention_mask=mask, steering=rows.plan())
            return
        with pytest.raises(SteeringError, match="would count the padding"):
            model(ids, attention_mask=mask, steering=rows.plan())
