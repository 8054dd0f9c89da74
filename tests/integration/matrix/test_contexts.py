"""Where `query_image` is asked from: generators, threads, tasks, executors, web handlers."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import QueryBundle
from llama_index.core.async_utils import asyncio_run
from llama_index.core.chat_engine.types import ChatMode

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.load import image_digest
from tests.integration.matrix.conftest import PATIENT, QUESTION

PATIENTS = tuple(f"patient-{number:02d}" for number in range(6))


@pytest.fixture(params=["query", "stream", "chat", "stream_chat"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def engine(hospital, llm, kind):
    if "chat" in kind:
        return hospital.index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
    return hospital.index.as_query_engine(llm, streaming=kind == "stream")


def ask(engine, kind: str):
    """Ask, and read a stream to its end."""
    method = {"query": "query", "stream": "query"}.get(kind, kind)
    response = getattr(engine, method)(QUESTION)
    if "stream" in kind:
        list(response.response_gen)
    return response


async def aask(engine, kind: str):
    method = {"query": "aquery", "stream": "aquery"}.get(kind, f"a{kind}")
    response = await getattr(engine, method)(QUESTION)
    if "stream" in kind:
        async for _ in response.async_response_gen():
            pass
    return response


def right(hospital, patient: str, response) -> bool:
    (answer,) = answer_trace(response.source_nodes)
    ticket = response.source_nodes[0].node._ticket
    return (
        answer.document_ids == hospital.evidence(patient, QUESTION)
        and answer.steering.applied
        and ticket.image.digest == image_digest(hospital.images[patient])
    )


def test_generator_that_asks_inside_its_block(hospital, engine, kind):
    def handler(patient):
        with query_image(hospital.images[patient]):
            yield ask(engine, kind)
            yield ask(engine, kind)

    handlers = {patient: handler(patient) for patient in PATIENTS[:3]}
    for _ in range(2):
        for patient, generator in handlers.items():
            assert right(hospital, patient, next(generator))


async def test_generator_advanced_by_threads_with_copied_contexts(hospital, engine, kind):
    """As a web framework streams a plain generator."""

    def handler(patient):
        with query_image(hospital.images[patient]):
            yield from (ask(engine, kind) for _ in range(2))

    async def serve(patient):
        generator, end = handler(patient), object()
        while (response := await asyncio.to_thread(next, generator, end)) is not end:
            assert right(hospital, patient, response)

    for patient in PATIENTS[:2]:
        await serve(patient)


async def test_async_generators_in_turn(hospital, engine, kind):
    async def handler(patient):
        with query_image(hospital.images[patient]):
            for _ in range(2):
                yield await aask(engine, kind)

    handlers = {patient: handler(patient) for patient in PATIENTS[:2]}
    for _ in range(2):
        for patient, generator in handlers.items():
            assert right(hospital, patient, await anext(generator))
    for generator in handlers.values():
        await generator.aclose()


def test_pool_with_copied_contexts(hospital, llm):
    engine = hospital.index.as_query_engine(llm)
    with ThreadPoolExecutor(3) as pool:
        waiting = {}
        for patient in PATIENTS:
            with query_image(hospital.images[patient]):
                context = contextvars.copy_context()
                waiting[patient] = pool.submit(context.run, engine.query, QUESTION)
                waiting[patient].exception()
        for patient, future in waiting.items():
            assert right(hospital, patient, future.result())


def test_pool_without_a_context_says_so(hospital, engine, kind):
    with ThreadPoolExecutor(1) as pool, query_image(hospital.images[PATIENT]):
        future = pool.submit(ask, engine, kind)
        with pytest.raises(InputError, match="thread"):
            future.result()


def test_pool_whose_block_has_ended_says_so(hospital, llm):
    engine = hospital.index.as_query_engine(llm)
    with query_image(hospital.images[PATIENT]):
        context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool, pytest.raises(EvidenceError, match="ended since"):
        pool.submit(context.run, engine.query, QUESTION).result()


def test_pool_asked_with_bundles_or_bound_engines(hospital, llm):
    engine = hospital.index.as_query_engine(llm)
    bound = {
        patient: hospital.index.as_query_engine(llm, image=hospital.images[patient])
        for patient in PATIENTS
    }

    def one(patient):
        response = engine.query(QueryBundle(QUESTION, hospital.images[patient]))
        return right(hospital, patient, response) and right(
            hospital, patient, bound[patient].query(QUESTION)
        )

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(one, PATIENTS))


async def test_gathered_tasks(hospital, llm, kind):
    async def one(patient):
        chat = "chat" in kind
        engine = (
            hospital.index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
            if chat
            else hospital.index.as_query_engine(llm, streaming=kind == "stream")
        )
        with query_image(hospital.images[patient]):
            return await aask(engine, kind)

    responses = await asyncio.gather(*map(one, PATIENTS))
    for patient, response in zip(PATIENTS, responses, strict=True):
        assert right(hospital, patient, response)


async def test_executor_of_the_loop(hospital, engine, kind):
    loop = asyncio.get_running_loop()
    with query_image(hospital.images[PATIENT]):
        context = contextvars.copy_context()
        response = await loop.run_in_executor(None, context.run, ask, engine, kind)
        assert right(hospital, PATIENT, response)
        with pytest.raises(InputError, match="has no image"):
            await loop.run_in_executor(None, ask, engine, kind)


def test_loop_within_a_block(hospital, engine, kind):
    with query_image(hospital.images[PATIENT]):
        assert right(hospital, PATIENT, asyncio.run(aask(engine, kind)))
        assert right(hospital, PATIENT, asyncio_run(aask(engine, kind)))


async def test_loop_within_a_loop(hospital, llm):
    engine = hospital.index.as_query_engine(llm, use_async=True)
    with query_image(hospital.images[PATIENT]):
        assert right(hospital, PATIENT, asyncio_run(engine.aquery(QUESTION)))


def test_threads_of_the_app_with_blocks_of_their_own(hospital, llm):
    engine = hospital.index.as_query_engine(llm)
    results = {}

    def one(patient):
        with query_image(hospital.images[patient]):
            results[patient] = right(hospital, patient, engine.query(QUESTION))

    threads = [threading.Thread(target=one, args=(patient,)) for patient in PATIENTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(PATIENTS, True)


def test_streams_read_in_turn_after_their_blocks(hospital, llm):
    engine = hospital.index.as_query_engine(llm, streaming=True)
    responses = {}
    for patient in PATIENTS:
        with query_image(hospital.images[patient]):
            responses[patient] = engine.query(QUESTION)
    with query_image(hospital.images[PATIENT]):
        for _ in itertools.zip_longest(*(r.response_gen for r in responses.values())):
            pass
    for patient, response in responses.items():
        assert right(hospital, patient, response)


def test_bound_engine_within_the_block_of_another_image_is_refused(hospital, llm):
    index = hospital.index
    image, other = hospital.images[PATIENT], hospital.images["patient-09"]
    bound = {"llm": llm, "image": image}
    with query_image(other):
        with pytest.raises(InputError, match="bound to an image"):
            index.as_query_engine(**bound).query(QUESTION)
        with pytest.raises(InputError, match="bound to an image"):
            index.as_chat_engine(chat_mode=ChatMode.CONTEXT, **bound).chat(QUESTION)
        with pytest.raises(InputError, match="bound to an image"):
            index.as_retriever(image=image).retrieve(QUESTION)
    with query_image(image):
        response = index.as_query_engine(**bound).query(QUESTION)
    assert right(hospital, PATIENT, response)


def test_bound_engine_is_known_where_the_block_is_not(hospital, llm):
    engine = hospital.index.as_query_engine(llm=llm, image=hospital.images[PATIENT])
    with query_image(hospital.images["patient-09"]):
        context = contextvars.copy_context()
    response = context.run(engine.query, QUESTION)
    assert right(hospital, PATIENT, response)
