"""A backend that needs proof is right at a model's heads, or it is refused by name."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, MistralConfig
from transformers.masking_utils import eager_mask, sdpa_mask

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.steering.attention import call_checks, model_class, proof, registry
from mrrag_llamaindex.steering.attention.probe_calls import HeadGeometry
from mrrag_llamaindex.steering.attention.proof import LENGTHS, require_equal, require_proven
from mrrag_llamaindex.steering.attention.registry import (
    BACKENDS,
    Backend,
    ifa_eager_attention_forward,
)

TINY = HeadGeometry(8, 2, 16)
CPU = torch.device("cpu")


class Attention:
    """The definition with a fault in some calls, and a count of all calls."""

    def __init__(self, fault=None, where=lambda rows, keys, steered: True):
        self.fault, self.where, self.calls = fault, where, 0

    def __call__(self, module, query, key, value, attention_mask, steering=None, **kwargs):
        self.calls += 1
        output, weights = ifa_eager_attention_forward(
            module, query, key, value, attention_mask, steering=steering, **kwargs
        )
        if self.fault is not None and self.where(
            query.shape[2], key.shape[2], steering is not None
        ):
            output = self.fault(output)
        return output, weights


def backend(attend, needs_proof=True, mask=eager_mask) -> Backend:
    return Backend("test_proof", attend, mask, needs_proof)


def shift(by):
    """One number of the last row is off."""

    def shifted(output):
        output = output.clone()
        output[0, -1, -1, -1] += by
        return output

    return shifted


def broken_compiler(output):
    raise RuntimeError("C++ compile error\nCommand: g++ " + 50 * "-flag ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("geometry", [TINY, HeadGeometry(6, 2, 16), HeadGeometry(4, 4, 64)])
def test_right_backends_pass(geometry, dtype):
    require_equal("right", backend(Attention()), geometry, CPU, dtype)
    for name in ("rows", "eager", "flex"):
        require_equal(name, BACKENDS[name], geometry, CPU, dtype)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (shift(0.01), "is off by 0.01 from the definition, where 0.0001 may be rounding"),
        (shift(float("inf")), "is off by inf"),
        (shift(float("nan")), "holds NaN"),
        (broken_compiler, r"could not be computed \(RuntimeError: C\+\+ compile error\);"),
    ],
)
def test_fault_at_any_length_is_refused_by_name(length, fault, reason):
    broken = backend(Attention(fault, lambda rows, keys, steered: keys == length))
    message = (
        "'broken' cannot be used here: with 8 query heads and 2 key heads of 16 dimensions in "
        f"float32 on cpu, its steered attention over {length} tokens {reason}.*"
        "use backend 'rows' or 'eager'"
    )
    with pytest.raises(SteeringError, match=message):
        require_equal("broken", broken, TINY, CPU, torch.float32)


@pytest.mark.parametrize(
    ("where", "call"),
    [
        (lambda rows, keys, steered: not steered and rows > 1, "plain attention over 24 tokens"),
        (lambda rows, keys, steered: rows == 1, "attention of one token after 24"),
        (lambda rows, keys, steered: keys == 301, "attention of one token after 300"),
    ],
)
def test_fault_outside_steering_is_refused(where, call):
    with pytest.raises(SteeringError, match=f"its {call} is off by 1 "):
        require_equal("broken", backend(Attention(shift(1.0), where)), TINY, CPU, torch.float32)


def test_backend_that_ignores_the_plan_is_refused():
    def ignores(*args, steering=None, **kwargs):
        return ifa_eager_attention_forward(*args, **kwargs)

    with pytest.raises(SteeringError, match="its steered attention over 24 tokens is off by"):
        require_equal("broken", backend(ignores), TINY, CPU, torch.float32)


def test_mask_function_of_another_backend_is_refused():
    # Without a mask for a prompt without padding, the definition attends to the future.
    with pytest.raises(SteeringError, match="no attention mask reached the eager function"):
        require_equal("broken", backend(Attention(), mask=sdpa_mask), TINY, CPU, torch.float32)


def test_half_precision_does_not_hide_a_fault():
    with pytest.raises(SteeringError, match="in bfloat16 on cpu, its steered"):
        require_equal("broken", backend(Attention(shift(1.0))), TINY, CPU, torch.bfloat16)


@pytest.mark.parametrize("fault", [None, shift(1.0)])
def test_outcome_is_kept_for_the_same_heads_only(fault):
    attend = Attention(fault)
    tried = backend(attend)

    def outcome(geometry):
        try:
            require_equal("tried", tried, geometry, CPU, torch.float32)
        except SteeringError as error:
            return str(error)
        return None

    first, calls = outcome(TINY), attend.calls
    assert (first is None) == (fault is None)
    assert (outcome(TINY), attend.calls) == (first, calls)
    outcome(HeadGeometry(4, 2, 16))
    assert attend.calls > calls


def test_uncompiled_is_no_proof_of_compiled():
    """A function that is wrong only where torch.compile compiles it."""
    compiled = torch.compile(
        lambda x: x + 1 if torch.compiler.is_compiling() else x, backend="eager"
    )
    tried = backend(Attention(compiled))
    require_equal("tried", tried, TINY, CPU, torch.float32)
    with (
        torch.compiler.set_stance("default"),
        pytest.raises(SteeringError, match="is off by 1 "),
    ):
        require_equal("tried", tried, TINY, CPU, torch.float32)
    require_equal("tried", tried, TINY, CPU, torch.float32)


# ---- where a model is loaded


@pytest.fixture
def add(monkeypatch):
    """Add a backend to the table."""

    def added(name, entry):
        table = MappingProxyType({**BACKENDS, name: entry})
        for module in (call_checks, model_class, proof, registry):
            monkeypatch.setattr(module, "BACKENDS", table)

    return added


@pytest.mark.parametrize("fault", [shift(1.0), shift(float("nan")), broken_compiler])
def test_broken_backend_is_refused_on_loading(add, fault):
    add("broken", backend(Attention(fault, lambda rows, keys, steered: keys == 130)))
    with pytest.raises(SteeringError, match="'broken' cannot be used here: with 4 query heads"):
        load_model(defaults.PHANTOM, device="cpu", backend="broken")


def test_right_backend_is_tried_and_loads(add):
    attend = Attention()
    add("right", backend(attend))
    loaded = load_model(defaults.PHANTOM, device="cpu", backend="right")
    assert loaded.model.config.text_config._attn_implementation == "test_proof"
    assert attend.calls == 3 * len(LENGTHS)


def test_backend_that_needs_no_proof_is_not_tried(add):
    attend = Attention(broken_compiler)
    add("plain", backend(attend, needs_proof=False))
    load_model(defaults.PHANTOM, device="cpu", backend="plain")
    assert attend.calls == 0


def test_only_flex_needs_proof():
    assert [name for name, entry in BACKENDS.items() if entry.needs_proof] == ["flex"]


def test_unknown_backend_is_refused():
    with pytest.raises(SteeringError, match="unknown steering backend 'flash'"):
        require_proven("flash", SimpleNamespace())


@pytest.mark.parametrize(
    ("config", "geometry"),
    [
        (
            MistralConfig(
                hidden_size=64, num_attention_heads=8, num_key_value_heads=2, head_dim=32
            ),
            HeadGeometry(8, 2, 32),
        ),
        (GPT2Config(n_embd=64, n_head=4), HeadGeometry(4, 4, 16)),
    ],
)
def test_geometry_is_read_from_the_configuration(config, geometry):
    assert HeadGeometry.of(config) == geometry
