"""A cache that is too small for its requests: what is computed again is steered again."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see tools/vllm/parity.sh")

from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.wire.request_report import RequestReport
from tests.serving.vllm.engines import engine, parameters
from tests.serving.vllm.test_parity import MIXED, same

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]


def test_a_preempted_request_is_steered_again(checkpoint, definition):
    defined = definition("mistral")
    asked = [
        defined.ask(f"Is there a nodule {'left ' * n}?", policy)
        for n, policy in enumerate([*MIXED[:3], PASTA(alpha=0.1, layers=(2,))])
    ]
    longest = max(len(one.prompt.input_ids) for one in asked)
    blocks = 2 * -(-longest // 32) + 3
    with engine(
        checkpoint("mistral"),
        num_gpu_blocks_override=blocks,
        enable_prefix_caching=False,
        max_model_len=(blocks - 1) * 32,
    ) as small:
        scheduler = small.llm_engine.engine_core.engine_core.scheduler
        preempted = []
        original = scheduler._preempt_request
        scheduler._preempt_request = lambda request, *args, **kwargs: (
            preempted.append(request.request_id),
            original(request, *args, **kwargs),
        )[1]
        outputs = small.generate(
            [one.vllm for one in asked],
            [parameters(one.plan, tokens=48) for one in asked],
            use_tqdm=False,
        )
    assert preempted
    for one, output in zip(asked, outputs, strict=True):
        same(output.outputs[0], defined.answer(one, tokens=48))
        if one.plan is not None:
            RequestReport.of(output.outputs[0].stop_reason, one.plan)
