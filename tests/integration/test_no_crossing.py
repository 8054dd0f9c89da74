"""No patient ever sees another's evidence: the table of channels as a test matrix."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGLLaVA, MRRAGPostprocessor, answer_trace, query_image
from mrrag_llamaindex.images.load import image_digest
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from tests.integration.crossing_run import Crossings
from tests.integration.test_existing_app import CallsTheTool

QUESTIONS = (
    "Is there a pleural effusion?",
    "Is there a nodule?",
    "Is there edema?",
    "Is there a pneumothorax?",
)


@pytest.fixture(scope="module")
def engines(hospital):
    """Whole and streaming engine over one model and one index, shared by everything below."""
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    return (
        hospital.index.as_query_engine(llm=llm),
        hospital.index.as_query_engine(llm=llm, streaming=True),
    )


def bundle(hospital, patient: str, question: str) -> QueryBundle:
    return QueryBundle(question, image_path=hospital.images[patient])


def crossings(hospital, patient: str, question: str, response) -> int:
    """1 if anything but this patient's evidence was read or steered to, else 0."""
    answers = answer_trace(response.source_nodes)
    ticket = response.source_nodes[0].node._ticket
    right = (
        len(answers) == 1
        and len(answers[0].document_ids) == 6
        and hospital.is_evidence(patient, question, answers[0].document_ids)
        and answers[0].steering.applied
        and ticket.image.digest == image_digest(hospital.images[patient])
        and ticket.question == question
    )
    return int(not right)


def test_interleaved_streams_keep_their_evidence(hospital, engines):
    _, streaming = engines
    first = streaming.query(bundle(hospital, "patient-01", QUESTIONS[0]))
    second = streaming.query(bundle(hospital, "patient-02", QUESTIONS[1]))
    one, two = iter(first.response_gen), iter(second.response_gen)
    for _ in range(4):
        next(one, None)
        next(two, None)
    assert crossings(hospital, "patient-01", QUESTIONS[0], first) == 0
    assert crossings(hospital, "patient-02", QUESTIONS[1], second) == 0


def test_stream_made_in_a_block_and_read_in_a_plain_thread_outside(hospital, engines):
    _, streaming = engines
    with query_image(hospital.images["patient-03"]):
        response = streaming.query(QUESTIONS[2])
    with query_image(hospital.images["patient-04"]):
        thread = threading.Thread(target=lambda: list(response.response_gen))
        thread.start()
        thread.join()
    assert crossings(hospital, "patient-03", QUESTIONS[2], response) == 0


async def test_gathered_async_streams_read_by_the_parent(hospital, engines):
    _, streaming = engines
    patients = [f"patient-{number:02d}" for number in range(8)]
    responses = await asyncio.gather(
        *(streaming.aquery(bundle(hospital, patient, QUESTIONS[3])) for patient in patients)
    )
    for response in reversed(responses):
        async for _ in response.async_response_gen():
            pass
    for patient, response in zip(patients, responses, strict=True):
        assert crossings(hospital, patient, QUESTIONS[3], response) == 0


@pytest.mark.slow
async def test_default_async_postprocessing_keeps_the_evidence(hospital, engines):
    """Stock postprocessors run in worker threads in async engines."""
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    engine = hospital.index.as_query_engine(
        llm=llm, node_postprocessors=[MRRAGPostprocessor(hospital.index)]
    )

    async def one(patient: str) -> int:
        with query_image(hospital.images[patient]):
            response = await engine.aquery(QUESTIONS[0])
        return crossings(hospital, patient, QUESTIONS[0], response)

    assert sum(await asyncio.gather(*(one(f"patient-{n:02d}") for n in range(12)))) == 0


def test_abandoned_stream_leaves_nothing_behind_for_the_next_question(hospital, engines):
    whole, streaming = engines
    abandoned = streaming.query(bundle(hospital, "patient-05", QUESTIONS[0]))
    next(iter(abandoned.response_gen), None)
    response = whole.query(bundle(hospital, "patient-06", QUESTIONS[0]))
    assert crossings(hospital, "patient-06", QUESTIONS[0], response) == 0


@pytest.mark.parametrize("queries", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mixed_concurrent_queries_without_a_crossing(hospital, engines, queries):
    """Four threads on one engine: whole, streamed, async, and streams read in turn."""
    whole, streaming = engines
    rng = random.Random(0)
    jobs = [
        (f"patient-{rng.randrange(50):02d}", rng.choice(QUESTIONS), kind % 4)
        for kind in range(queries)
    ]
    waiting: list[tuple[str, str, object]] = []
    lock = threading.Lock()

    def run(job: tuple[str, str, int]) -> int:
        patient, question, kind = job
        if kind == 0:
            response = whole.query(bundle(hospital, patient, question))
        elif kind == 1:
            with query_image(hospital.images[patient]):
                response = streaming.query(question)
            list(response.response_gen)
        elif kind == 2:
            response = asyncio.run(whole.aquery(bundle(hospital, patient, question)))
        else:  # made here, read later by whichever thread comes next
            made = streaming.query(bundle(hospital, patient, question))
            with lock:
                waiting.append((patient, question, made))
                patient, question, response = waiting.pop(rng.randrange(len(waiting)))
                waiting.append((patient, question, response)) if len(waiting) < 3 else None
            if any(response is item[2] for item in waiting):
                return 0
            list(response.response_gen)
        return crossings(hospital, patient, question, response)

    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(run, jobs))
    for patient, question, response in waiting:
        list(response.response_gen)
        total += crossings(hospital, patient, question, response)
    assert total == 0
    assert len(TICKETS._tickets) <= TICKETS.capacity
    assert sum(ticket.memory for ticket in TICKETS._tickets.values()) <= TICKETS.memory


@pytest.mark.slow
def test_every_way_of_asking_at_once(hospital):
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    counts = Crossings(hospital, llm, CallsTheTool.about).run(queries=110, seed=1)
    assert counts.pop("crossings") == 0
    assert set(counts.values()) == {10}
