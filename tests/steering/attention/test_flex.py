"""The flex attention function on bare tensors, compiled once, and where it can run."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import LlavaForConditionalGeneration

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention import model_class
from mrrag_llamaindex.steering.attention.flex import ifa_flex_attention_forward
from mrrag_llamaindex.steering.attention.model_class import (
    attention_implementation,
    require_backend,
)
from mrrag_llamaindex.steering.attention.probe_calls import HeadGeometry
from mrrag_llamaindex.steering.attention.proof import require_equal
from mrrag_llamaindex.steering.attention.registry import BACKENDS, ifa_eager_attention_forward
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.spans import PromptSpans


def layer(groups: int = 1) -> Any:
    return SimpleNamespace(layer_idx=0, num_key_value_groups=groups, is_causal=True, training=False)


def block(allowed: torch.Tensor) -> BlockMask:
    """A block mask from bool (batch, rows, keys)."""
    return create_block_mask(
        lambda batch, head, row, column: allowed[batch, row, column],
        allowed.shape[0],
        None,
        *allowed.shape[1:],
        device="cpu",
    )


@pytest.mark.parametrize("lambdas", [[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
def test_three_by_three_by_hand(lambdas):
    logits = torch.tensor([[1.0, 9.0, 9.0], [-1.0, 2.0, 9.0], [-2.0, 1.0, 0.5]])
    plan = SteeringPlan(
        torch.tensor([lambdas]), torch.tensor([[False, True, True]]), frozenset({0})
    )
    # Some versions of torch want heads whose dimension is a power of two.
    logits, eye = (torch.nn.functional.pad(it, (0, 1)) for it in (logits, torch.eye(3)))
    eye = eye[None, None]
    allowed = block(torch.ones(1, 3, 3, dtype=torch.bool).tril())
    output, _ = ifa_flex_attention_forward(
        layer(), logits[None, None], eye, eye, allowed, scaling=1.0, steering=plan
    )
    # Row 0 is not steered. Row 1: -1 + 1 = 0, 2 + 2*lambda; row 2: -2 + 2 = 0, 1 + lambda, ...
    first = [1.0, math.exp(2 + 2 * lambdas[1])]
    second = [1.0, math.exp(1 + lambdas[1]), math.exp(0.5 + 0.5 * lambdas[2])]
    expected = torch.tensor(
        [
            [1.0, 0.0, 0.0],
            [*(x / sum(first) for x in first), 0.0],
            [x / sum(second) for x in second],
        ]
    )
    torch.testing.assert_close(output[0, :, 0, :3], expected, atol=1e-6, rtol=0)


def case(heads: int, key_heads: int, rows: int = 24, length: int = 24):
    """Three rows: left padding 3, unsteered, and a gap of 4 behind a shared prefix of 8."""
    generator = torch.Generator().manual_seed(7)
    query = 3 * torch.randn(3, heads, length, 16, generator=generator)[:, :, -rows:]
    key = torch.randn(3, key_heads, length, 16, generator=generator)
    value = torch.randn(3, key_heads, length, 16, generator=generator)
    plans = [
        SteeringPlan.build(
            [PromptSpans(((1, 5), (6, 11)), (size - 6 + row, size - 2 + row // 2), size)],
            [lambdas],
            IFA(),
            (0,),
            length,
            shared_prefix=prefix,
        )
        for row, (size, lambdas, prefix) in enumerate(
            [(21, (1.0, 0.3), 0), (24, (0, 0), 0), (20, (0.4, 1.0), 8)]
        )
    ]
    plan = SteeringPlan(
        torch.cat([p.column_weights for p in plans]),
        torch.cat([p.steered_rows for p in plans]),
        frozenset({0}),
    )
    allowed = torch.ones(3, length, length, dtype=torch.bool).tril()
    allowed[0, :, :3] = False
    allowed[2, :, 8:12] = False
    return query, key, value, allowed[:, -rows:], plan


def compare(heads: int, key_heads: int, rows: int, scaling: float | None = 0.3) -> None:
    query, key, value, allowed, plan = case(heads, key_heads, rows)
    module = layer(heads // key_heads)
    floats = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    results = [
        function(module, query, key, value, mask, scaling=scaling, steering=steering)[0]
        for function, mask, steering in [
            (ifa_flex_attention_forward, block(allowed), plan),
            (ifa_eager_attention_forward, floats[:, None], plan),
            (ifa_eager_attention_forward, floats[:, None], None),
        ]
    ]
    real = allowed.any(-1)
    steered = plan.steered_rows[:, -rows:]
    torch.testing.assert_close(results[0][real], results[1][real], atol=1e-5, rtol=0)
    assert results[0].isfinite().all()
    assert (results[0] - results[2])[[0, 2]][steered[[0, 2]]].abs().max() > 0.05
    torch.testing.assert_close(results[0][1], results[2][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("heads", "key_heads"),
    [(2, 2), (8, 2), (6, 2)],  # alone, grouped, grouped but not by a power of two
)
@pytest.mark.parametrize("rows", [24, 9, 5])
def test_flex_equals_the_definition(heads, key_heads, rows):
    compare(heads, key_heads, rows)


def test_scaling_of_none_is_that_of_the_definition():
    compare(8, 2, 24, scaling=None)


@pytest.mark.slow
def test_compiled_flex_equals_the_definition_or_is_refused():
    """The form that runs outside tests; two shapes, because compiling takes seconds."""
    try:
        require_backend("flex", "cpu")
    except SteeringError as error:
        pytest.skip(str(error))
    refusal = None
    with torch.compiler.set_stance("default"):
        try:
            require_equal(
                "flex", BACKENDS["flex"], HeadGeometry(8, 2, 16), torch.device("cpu"), torch.float32
            )
        except SteeringError as error:
            refusal = str(error)
        else:
            compare(8, 2, 24)
            compare(8, 2, 9)
    if refusal is not None:
        assert re.search("'flex' cannot be used here: .* use backend 'rows'", refusal)


def test_policy_is_the_only_source_of_the_formula():
    class Doubled:
        def steer(self, logits, weights):
            return logits + 2 * weights

    query, key, value, allowed, plan = case(8, 2)
    other = SteeringPlan(plan.column_weights, plan.steered_rows, plan.layers, policy=Doubled())
    floats = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    arguments = (layer(4), query, key, value)
    flex, _ = ifa_flex_attention_forward(*arguments, block(allowed), steering=other)
    eager, _ = ifa_eager_attention_forward(*arguments, floats[:, None], steering=other)
    real = allowed.any(-1)
    torch.testing.assert_close(flex[real], eager[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", ["none", "float"])
def test_mask_that_is_no_block_mask_is_refused(mask):
    query, key, value, allowed, plan = case(2, 2)
    given = None if mask == "none" else allowed[:, None].float()
    with pytest.raises(SteeringError, match="no block mask reached layer 0"):
        ifa_flex_attention_forward(layer(), query, key, value, given, steering=plan)


@pytest.mark.parametrize("term", ["softcap", "position_bias", "s_aux"])
def test_terms_beside_the_formula_are_refused(term):
    query, key, value, allowed, plan = case(2, 2)
    with pytest.raises(SteeringError, match=term):
        ifa_flex_attention_forward(
            layer(), query, key, value, block(allowed), steering=plan, **{term: torch.ones(1)}
        )


def test_dropout_is_refused():
    query, key, value, allowed, plan = case(2, 2)
    with pytest.raises(SteeringError, match="dropout"):
        ifa_flex_attention_forward(
            layer(), query, key, value, block(allowed), steering=plan, dropout=0.1
        )


# ---- where it can run


def test_only_the_text_layers_of_llava_are_on_flex():
    asked = attention_implementation(LlavaForConditionalGeneration, "flex")
    assert asked == {"vision_config": "sdpa", "text_config": "mrrag_ifa_flex"}


@pytest.mark.parametrize("backend", ["rows", "eager"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_plain_backends_need_nothing(backend, device, monkeypatch):
    monkeypatch.setenv("PATH", "")
    require_backend(backend, device)


def test_unknown_backend_is_refused_by_name():
    with pytest.raises(SteeringError, match=r"unknown steering backend 'flash'.*'flex'"):
        require_backend("flash", "cpu")


def test_flex_on_a_cpu_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SteeringError, match="'flex' cannot run on cpu: no C\\+\\+ compiler"):
        require_backend("flex", "cpu")
    compiler = tmp_path / "own-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "own-compiler")
    require_backend("flex", "cpu")


@pytest.mark.parametrize(
    ("visible", "triton", "reason"),
    [(False, True, "no CUDA device"), (True, False, "triton")],
)
def test_flex_on_cuda_needs_a_device_and_triton(monkeypatch, visible, triton, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(
        model_class.importlib.util, "find_spec", lambda name: object() if triton else None
    )
    with pytest.raises(SteeringError, match=f"cannot run on cuda: .*{reason}"):
        require_backend("flex", "cuda")


def test_flex_on_other_devices_is_refused():
    with pytest.raises(SteeringError, match="cannot run on mps"):
        require_backend("flex", "mps")
