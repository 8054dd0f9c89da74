"""Through vLLM, in process and over HTTP, answers are those of the transformers engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see tools/vllm/parity.sh")

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.generation.checkpoints.conversion.vllm import convert_for_vllm
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.pai import PAI
from tests.serving.vllm.phantom_answers import Asked, ask_all, compare, make
from tests.serving.vllm.server_process import served

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("one_thread")]

LIMITS = {"model": "phantom", "max_new_tokens": 4, "batch_size": 32, "max_documents": 7}
DOORS = ["in_process", "over_http"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
    return make(tmp_path_factory.mktemp("asked"), seed=0, count=40)


@pytest.fixture(scope="module")
def here() -> MRRAGLLaVA:
    return MRRAGLLaVA(device="cpu", **LIMITS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return convert_for_vllm("phantom", tmp_path_factory.mktemp("vllm") / "phantom").folder


@pytest.fixture(scope="module")
def in_process() -> Iterator[MRRAGLLaVA]:
    llm = MRRAGLLaVA(engine="vllm", engine_options={"enforce_eager": True}, **LIMITS)
    yield llm
    llm.engine.connection.close()


@pytest.fixture(scope="module")
def over_http(folder, tmp_path_factory) -> Iterator[MRRAGLLaVA]:
    with served(folder, tmp_path_factory.mktemp("log") / "log.txt") as (address, _):
        llm = MRRAGLLaVA(api_base=address, **LIMITS)
        yield llm
        llm.engine.connection.close()


@pytest.fixture
def far(request) -> MRRAGLLaVA:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("far", DOORS, indirect=True)
@pytest.mark.parametrize("policy", [IFA(), None], ids=["ifa", "off"])
def test_a_stock_query_engine_answers_alike(far, here, asked, policy):
    theirs = asyncio.run(ask_all(asked, far.model_copy(update={"policy": policy})))
    ours = asyncio.run(ask_all(asked, here.model_copy(update={"policy": policy})))
    told = compare(asked, theirs, ours)
    assert told["same_text"] == told["same_facts"] == told["questions"]
    assert told["largest_difference_of_p"] < 1e-4
    assert told["largest_difference_of_lambda"] < 1e-4
    assert told["accuracy_vllm"] == told["accuracy_transformers"]
    assert bool(told["steered"]) == (policy is not None)


@pytest.mark.parametrize("far", DOORS, indirect=True)
def test_streams_batches_and_refusals_are_those_of_the_other_engine(far, here):
    trials = draw_trials(7, 12, documents=4, irrelevant=2)
    requests, images = [x.request for x in trials], [x.image for x in trials]
    batch = far.engine.generate(requests, images, policy=IFA())
    for request, image, answer in zip(requests, images, batch, strict=True):
        stream = far.engine.stream(request, image, policy=IFA())
        assert "".join(stream).strip() == answer.text == stream.answer.text
        assert stream.answer.p_yes == pytest.approx(answer.p_yes, abs=1e-4)
    pai = PAI(guidance=1.0)
    (one,) = far.engine.generate(requests[:1], images[:1], policy=pai)
    (other,) = here.engine.generate(requests[:1], images[:1], policy=pai)
    assert one.p_yes == pytest.approx(other.p_yes, abs=1e-4)
    with pytest.raises(SteeringError, match="guidance=1"):
        far.engine.generate(requests[:1], images[:1], policy=PAI(guidance=1.5))
    with pytest.raises(ModelError, match="explain=True"):
        far.model_copy(update={"explain": True})


@pytest.mark.parametrize("far", DOORS, indirect=True)
def test_a_task_that_is_cancelled_takes_its_requests_back(far):
    trials = draw_trials(8, 400, documents=4, irrelevant=2)
    requests, images = [x.request for x in trials], [x.image for x in trials]
    before = far.engine.stats

    async def give_up() -> None:
        work = in_thread(far.engine.generate, requests, images, policy=IFA())
        task = asyncio.ensure_future(work)
        while not far.engine.stats.running:
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    deadline = time.monotonic() + 20
    while far.engine.stats.running and time.monotonic() < deadline:
        time.sleep(0.05)
    after = far.engine.stats
    assert after.running == after.waiting == 0
    assert after.cancelled > before.cancelled
    assert far.engine.generate(requests[:1], images[:1], policy=IFA())


def test_a_device_that_this_vllm_does_not_run_on_is_refused():
    with pytest.raises(ModelError, match="runs on 'cpu', and device='meta'"):
        MRRAGLLaVA(engine="vllm", device="meta", **LIMITS).engine  # noqa: B018


def test_a_server_without_the_plugin_is_refused(folder, tmp_path):
    with (
        served(folder, tmp_path / "log.txt", plugin=False) as (address, _),
        pytest.raises(ModelError, match="without this package's plugin"),
    ):
        MRRAGLLaVA(api_base=address, **LIMITS)


def test_a_server_that_is_killed_is_one_clear_error_for_each_caller(folder, tmp_path):
    trials = draw_trials(9, 300, documents=4, irrelevant=2)
    requests, images = [x.request for x in trials], [x.image for x in trials]
    said: list[BaseException] = []
    begun = threading.Barrier(5)
    with served(folder, tmp_path / "log.txt") as (address, process):
        llm = MRRAGLLaVA(api_base=address, **LIMITS)
        llm.engine.generate(requests[:1], images[:1], policy=IFA())

        def ask() -> None:
            begun.wait()
            try:
                while True:
                    llm.engine.generate(requests, images, policy=IFA())
            except Exception as error:
                said.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(1.0)
        process.kill()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert [type(one) for one in said] == [ModelError] * 4
    assert all("went away in the middle" in str(o) or "be reached" in str(o) for o in said)
    with pytest.raises(ModelError, match="cannot be reached"):
        llm.engine.generate(requests[:1], images[:1])
