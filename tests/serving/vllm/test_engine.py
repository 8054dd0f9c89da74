"""What an engine does with requests that have plans: shares blocks, aborts, refuses, fails."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see tools/vllm/parity.sh")

from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.wire.request_plan import ARGUMENT, RequestPlan
from mrrag_llamaindex.steering.wire.request_report import RequestReport
from tests.serving.vllm.engines import engine, parameters
from tests.serving.vllm.test_parity import MIXED, run, same

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def defined(definition):
    return definition("mistral")


@pytest.fixture(scope="module")
def running(checkpoint):
    with engine(checkpoint("mistral")) as made:
        yield made


def test_other_plans_of_one_evidence_share_its_blocks_and_no_more(running, defined):
    """In every order: what one plan computed from the question on, no other may find."""
    running.reset_prefix_cache()
    question = "Is there a nodule in the left lung, or is the heart of normal size? " * 2
    asked = [defined.ask(question, policy) for policy in (*MIXED, *MIXED[::-1], None)]
    start = asked[0].prompt.question_span[0]
    seen: set[str] = set()
    for one in asked:
        output = run(running, [one])[0]
        same(output.outputs[0], defined.answer(one))
        name = "" if one.plan is None else one.plan.dump()
        shared = start // 32 * 32
        if name in seen:
            assert output.num_cached_tokens > shared, "an equal plan's blocks were not found"
            if one.plan is not None:
                assert RequestReport.of(output.outputs[0].stop_reason, one.plan).cached > 0
        elif seen:
            assert output.num_cached_tokens == shared
        seen.add(name)


def test_an_aborted_request_leaves_the_others_as_they_are(running, defined):
    core = running.llm_engine
    asked = [defined.ask("Is there a nodule?", policy) for policy in MIXED]
    for number, one in enumerate(asked):
        core.add_request(str(number), one.vllm, parameters(one.plan, tokens=12))
    done, steps = {}, 0
    while core.has_unfinished_requests():
        for output in core.step():
            if output.finished:
                done[output.request_id] = output
        steps += 1
        if steps in (1, 3):  # in the middle of a prompt, and of an answer
            core.abort_request([str(steps)])
    assert set(done) >= {"0", "2", "4", "5"}
    for number in (0, 2, 4, 5):
        same(done[str(number)].outputs[0], defined.answer(asked[number], tokens=12))


def test_several_answers_of_one_request_report_each(running, defined):
    one = defined.ask("Is there a nodule?", IFA(layers=(1, 2)))
    from vllm import SamplingParams

    from mrrag_llamaindex.steering.wire.request_plan import to_extra_args

    params = SamplingParams(
        n=2, temperature=1.0, max_tokens=4, detokenize=False, extra_args=to_extra_args(one.plan)
    )
    for answer in running.generate([one.vllm], params, use_tqdm=False)[0].outputs:
        RequestReport.of(answer.stop_reason, one.plan)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"version": 9}, "version"),
        ({"policy": "other"}, "policy"),
        ({"rows": [1, 2]}, "rows"),
        ({"lambdas": []}, "lambdas"),
    ],
)
def test_what_is_no_plan_never_enters(running, defined, change, names):
    one = defined.ask("Is there a nodule?", IFA(layers=(1,)))
    broken = parameters(one.plan)
    broken.extra_args[ARGUMENT] = json.dumps(json.loads(one.plan.dump()) | change)
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=names):
        running.generate([one.vllm], broken, use_tqdm=False)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"length": 500}, "tokens"),
        ({"layers": (1, 9)}, "layer 9"),
        ({"policy": "pasta", "options": {"heads": {"1": [7]}}}, "head 7"),
    ],
)
def test_a_plan_that_does_not_fit_fails_alone_and_says_why(running, defined, change, names):
    one = defined.ask("Is there a nodule?", IFA(layers=(1,)))
    wrong = RequestPlan(**(one.plan.model_dump() | change))
    outputs = running.generate(
        [one.vllm, one.vllm], [parameters(wrong), parameters(one.plan)], use_tqdm=False
    )
    failed, whole = (output.outputs[0] for output in outputs)
    assert failed.finish_reason == "error"
    assert names in failed.stop_reason
    same(whole, defined.answer(one))


def test_steering_that_fails_in_a_layer_fails_its_request(running, defined, monkeypatch):
    from mrrag_llamaindex.serving.vllm import requests

    one = defined.ask("Is there a nodule?", IFA(layers=(1, 2)))
    plain = defined.ask("Is there a nodule?", None)

    def fails(*args, **kwargs):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(requests, "steer_rows", fails)
        outputs = running.generate(
            [one.vllm, plain.vllm], [parameters(one.plan), parameters()], use_tqdm=False
        )
    assert outputs[0].outputs[0].finish_reason == "error"
    assert "no memory" in outputs[0].outputs[0].stop_reason
    same(outputs[1].outputs[0], defined.answer(plain))
    # Its blocks hold plain rows under the plan's name; nobody may read them.
    same(run(running, [one])[0].outputs[0], defined.answer(one))


def test_no_request_reads_blocks_of_one_whose_steering_failed(running, defined, monkeypatch):
    from mrrag_llamaindex.serving.vllm import requests

    long = "Is there a nodule? " * 20
    one = defined.ask(long, IFA(layers=(1, 2)))
    assert one.plan.rows[1] - one.plan.rows[0] > 64  # whole blocks of steered rows
    genuine, calls = requests.steer_rows, []

    def fails_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return genuine(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(requests, "steer_rows", fails_once)
        outputs = running.generate([one.vllm] * 2, [parameters(one.plan)] * 2, use_tqdm=False)
    failed, twin = (output.outputs[0] for output in outputs)
    assert failed.finish_reason == "error"
    if twin.finish_reason != "error":
        same(twin, defined.answer(one))
    same(run(running, [one])[0].outputs[0], defined.answer(one))


STOCK = """
import json, sys
from tests.serving.vllm.engines import engine, parameters
with engine(sys.argv[1], steered=False) as plain:
    for output in plain.generate(json.loads(sys.argv[2]), parameters(), use_tqdm=False):
        said = output.outputs[0]
        told = [{t: v.logprob.hex() for t, v in step.items()} for step in said.logprobs]
        print("SAID", json.dumps([list(said.token_ids), told]))
"""


def test_without_a_plan_it_is_the_engine_bit_for_bit(running, checkpoint, defined):
    running.reset_prefix_cache()
    prompts = [defined.ask(f"nodule {n}?", None).vllm for n in range(3)]
    folder = str(checkpoint("mistral"))
    stock = subprocess.run(
        [sys.executable, "-c", STOCK, folder, json.dumps(prompts)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    said = [json.loads(line[5:]) for line in stock.stdout.splitlines() if line.startswith("SAID ")]
    outputs = running.generate(prompts, parameters(), use_tqdm=False)
    assert len(said) == len(outputs)
    for (tokens, told), output in zip(said, outputs, strict=True):
        ours = output.outputs[0]
        assert tokens == list(ours.token_ids)
        mine = [{str(t): v.logprob.hex() for t, v in step.items()} for step in ours.logprobs]
        assert told == mine
        assert ours.stop_reason is None
