"""Forty people ask at once: their questions run in batches, with the answers of lone ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import BusyError, MRRAGLLaVA, answer_trace
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.integration.entry_points import as_messages

QUESTIONS = ("Is there a pleural effusion?", "Is there a nodule?")


@pytest.fixture
def own() -> MRRAGLLaVA:
    return MRRAGLLaVA(model="phantom", max_new_tokens=3)


@pytest.fixture
def endless(own) -> MRRAGLLaVA:
    own.engine.model.generation_config.eos_token_id = None
    return own.model_copy(update={"max_new_tokens": 1500, "on_missing_context": "ignore"})


def bundles(hospital, count: int) -> list[QueryBundle]:
    return [
        QueryBundle(QUESTIONS[number % 2], image_path=hospital.images[f"patient-{number % 20:02d}"])
        for number in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("explain", [False, True])
async def test_forty_queries_are_batched_and_equal_lone_ones(hospital, own, explain):
    llm = own.model_copy(update={"explain": explain})
    engine = hospital.index.as_query_engine(llm=llm)
    asked = bundles(hospital, 40)
    alone = [answer_trace(engine.query(bundle).source_nodes)[0] for bundle in asked]
    before = llm.engine.scheduler.stats.rows
    responses = await asyncio.gather(*(engine.aquery(bundle) for bundle in asked))
    after = llm.engine.scheduler.stats.rows
    assert after.total - before.total == 40
    assert after.count - before.count < 40
    for bundle, response, expected in zip(asked, responses, alone, strict=True):
        (found,) = answer_trace(response.source_nodes)
        patient = bundle.image_path.rsplit("/", 1)[-1].removesuffix("-query.png")
        assert set(found.document_ids) <= set(hospital.evidence(patient, bundle.query_str))
        assert (found.text, found.document_ids) == (expected.text, expected.document_ids)
        assert found.p_yes == pytest.approx(expected.p_yes, abs=1e-4)
        # Untrained towers: the scores span so little that lambda shows the rounding of a batch.
        assert found.lambdas == pytest.approx(expected.lambdas, abs=5e-3)
        if explain:
            points = {name: one.points for name, one in found.influence.items()}
            others = {name: one.points for name, one in expected.influence.items()}
            assert points == pytest.approx(others, abs=5e-2)


async def test_the_event_loop_goes_on_meanwhile(endless):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    llm = endless.model_copy(update={"max_new_tokens": 200})
    started = time.perf_counter()
    await llm.acomplete("Is there a nodule?")
    seconds = time.perf_counter() - started
    ticking.cancel()
    assert ticks > 10 * seconds


async def test_a_cancelled_task_stops_its_work(endless, wait_for):
    scheduler = endless.engine.scheduler
    task = asyncio.create_task(endless.acomplete("Is there a nodule?"))
    while scheduler.stats.running == 0:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_for, lambda: scheduler.stats.running == 0)
    assert scheduler.stats.cancelled == 1
    assert scheduler.stats.answered == 0


@pytest.mark.parametrize("how", ["break", "cancel", "forget"])
async def test_an_asynchronous_stream_that_is_left_stops_its_work(endless, wait_for, how):
    scheduler = endless.engine.scheduler

    async def read():
        async for _ in await endless.astream_chat(as_messages("Is there a nodule?")):
            if how != "cancel":
                return

    task = asyncio.create_task(read())
    while scheduler.stats.running == 0 and not task.done():
        await asyncio.sleep(0.01)
    if how == "cancel":
        await asyncio.sleep(0.1)
        task.cancel()
    await asyncio.wait([task])
    await asyncio.to_thread(wait_for, lambda: scheduler.stats.running == 0)
    assert scheduler.stats.cancelled == 1


async def test_forty_streams_are_read_side_by_side(endless):
    llm = endless.model_copy(update={"max_new_tokens": 8})

    async def read():
        return [piece async for piece in await llm.astream_chat(as_messages("Is there a nodule?"))]

    first, *rest = await asyncio.gather(*(read() for _ in range(40)))
    assert all(one[-1].message.content == first[-1].message.content for one in rest)
    rows = llm.engine.scheduler.stats.rows
    assert rows.total == 40
    assert rows.count < 40


async def test_who_finds_the_queue_full_is_told(endless, wait_for):
    llm = endless.model_copy(update={"max_queue": 1})
    running = asyncio.create_task(llm.acomplete("Is there a nodule?"))
    while llm.engine.scheduler.stats.running == 0:
        await asyncio.sleep(0.01)
    others = [asyncio.create_task(llm.acomplete("Is there a nodule?")) for _ in range(3)]
    done, waiting = set(), set(others)
    while len(done) < 2:  # no longer: where the machine is fast, what waits is answered, too
        refused, waiting = await asyncio.wait(
            waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED
        )
        assert refused
        done |= refused
    assert len(done) == 2
    assert all(isinstance(one.exception(), BusyError) for one in done)
    for task in (running, *waiting):
        task.cancel()
    await asyncio.wait([running, *waiting])


def test_queue_options_are_checked_and_may_change(own):
    assert own.max_queue == own.engine.max_queue
    own.queue_timeout = 2.5
    assert own.engine.queue_timeout == 2.5
    other = own.model_copy(update={"max_queue": 3})
    assert (other.engine.max_queue, other.engine.queue_timeout) == (3, 2.5)
    assert other.engine.scheduler is own.engine.scheduler
    own.queue_timeout = None
    assert own.engine.queue_timeout is None
    given = MRRAGLLaVA(engine=own.engine, max_queue=7)
    assert (given.engine.max_queue, given.engine.scheduler) == (7, own.engine.scheduler)
    for name, value in (("max_queue", 0), ("queue_timeout", 0), ("queue_timeout", -1)):
        with pytest.raises(ModelError, match=name):
            setattr(own, name, value)


@pytest.mark.slow
def test_the_interpreter_ends_while_a_stream_runs():
    """A thread that generates while the interpreter is taken down would abort the process."""
    code = """
        from mrrag_llamaindex import MRRAGLLaVA
        llm = MRRAGLLaVA(model="phantom", max_new_tokens=1900, on_missing_context="ignore")
        llm.engine.model.generation_config.eos_token_id = None
        pieces = llm.stream_complete("Is there a nodule?")
        next(pieces)
        print("read", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "read" in done.stdout


def test_a_loaded_engine_asked_by_threads_has_one_queue(own):
    request = PromptRequest(QUESTIONS[0])
    copy = own.model_copy(update={"max_documents": 2})
    own.engine.generate([request], [None])
    copy.engine.generate([request], [None])
    assert own.engine.scheduler.stats.answered == 2
