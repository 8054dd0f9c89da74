"""What must hold of steering wherever it runs; on CUDA, these are the tests to run first."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AttentionInterface

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.attention.registry import BACKENDS, register
from tools.gpu import model, steering

ROWS = BACKENDS["rows"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible")
    return request.param


@pytest.mark.parametrize("check", steering.CHECKS, ids=lambda check: check.__name__)
def test_it_holds(check, device):
    check(device)


def slightly_more(output, query, key, calls):
    return output * 1.001


def drawn_to_its_company(output, query, key, calls):
    return 0.9 * output + 0.1 * output.mean(dim=0, keepdim=True)


def off_behind_a_prefix(output, query, key, calls):
    return output * 1.01 if 1 < query.shape[2] < key.shape[2] else output


def another_one_each_time(output, query, key, calls):
    return output * (1 + 0.001 * next(calls))


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (steering.backends_agree, slightly_more),
        (steering.off_is_stock, slightly_more),
        (steering.company_changes_nothing, drawn_to_its_company),
        (steering.prefix_changes_nothing, off_behind_a_prefix),
        (steering.callers_get_their_own, another_one_each_time),
    ],
)
def test_a_check_sees_what_it_is_for(monkeypatch, check, fault):
    calls = itertools.count()

    def attend(module, query, key, value, attention_mask, **kwargs):
        output, weights = ROWS.attend(module, query, key, value, attention_mask, **kwargs)
        return fault(output, query, key, calls), weights

    def register_faulty():
        register()
        AttentionInterface.register(ROWS.registered, attend)

    monkeypatch.setattr(model, "register", register_faulty)
    try:
        with pytest.raises(AssertionError):
            check("cpu")
    finally:
        register()


def test_steering_that_does_not_happen_is_seen(monkeypatch):
    def attend(*args, steering=None, **kwargs):
        return ROWS.attend(*args, **kwargs)

    def register_faulty():
        register()
        AttentionInterface.register(ROWS.registered, attend)

    monkeypatch.setattr(model, "register", register_faulty)
    try:
        with pytest.raises(SteeringError):
            steering.backends_agree("cpu")
    finally:
        register()
