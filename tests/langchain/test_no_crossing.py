"""Threads, tasks and streams of twenty patients over one chain: nobody reads another's evidence."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.runnables import RunnablePassthrough

from mrrag_llamaindex import query_image
from mrrag_llamaindex.langchain import ChatMRRAG, evidence_prompt
from tests.langchain.conftest import PROMPT

PATIENTS = [f"patient-{number:02d}" for number in range(20)]
QUESTIONS = ("Is there a pleural effusion?", "Is there a nodule?", "Is there edema?")


@pytest.fixture(scope="module")
def chains(chat, retriever):
    """A chain that is asked in blocks, and one that takes the image with the question."""
    answer = evidence_prompt(PROMPT) | chat.bind(max_new_tokens=2)
    block = {"context": retriever, "input": RunnablePassthrough()} | answer
    return block, RunnablePassthrough.assign(context=retriever.for_inputs()) | answer


def crossing(hospital, patient, question, message) -> int:
    facts = message.response_metadata["mrrag"]
    right = facts["document_ids"] == hospital.evidence(patient, question)
    return int(not (right and facts["steering"]["applied"] and facts["image_read"]))


def asked(hospital, chains, patient, question, kind):
    block, explicit = chains
    inputs = {"input": question, "image": hospital.images[patient]}
    if kind == 0:
        return explicit.invoke(inputs)
    if kind == 1:
        with query_image(hospital.images[patient]):
            return block.invoke(question)
    if kind == 2:
        pieces = list(explicit.stream(inputs))
        return sum(pieces[1:], pieces[0])
    return asyncio.run(explicit.ainvoke(inputs))


@pytest.mark.parametrize("questions", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_threads(hospital, chains, questions):
    rng = random.Random(0)
    jobs = [(rng.choice(PATIENTS), rng.choice(QUESTIONS), n % 4) for n in range(questions)]

    def run(job):
        return crossing(hospital, *job[:2], asked(hospital, chains, *job))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run, jobs)) == 0


@pytest.mark.slow
async def test_tasks_and_streams_read_in_turn(hospital, chains):
    block, explicit = chains

    async def in_a_block(patient, question):
        with query_image(hospital.images[patient]):
            message = None
            async for chunk in block.astream(question):
                message = chunk if message is None else message + chunk
                await asyncio.sleep(0)
        return crossing(hospital, patient, question, message)

    async def with_the_question(patient, question):
        inputs = {"input": question, "image": hospital.images[patient]}
        return crossing(hospital, patient, question, await explicit.ainvoke(inputs))

    jobs = [
        ask(patient, question)
        for patient in PATIENTS
        for question in QUESTIONS[:2]
        for ask in (in_a_block, with_the_question)
    ]
    assert sum(await asyncio.gather(*jobs)) == 0


def test_interleaved_streams(hospital, chains):
    _, explicit = chains
    streams = {
        patient: explicit.stream({"input": QUESTIONS[0], "image": hospital.images[patient]})
        for patient in PATIENTS[:6]
    }
    messages = {patient: next(stream) for patient, stream in streams.items()}
    for patient, stream in reversed(streams.items()):
        messages[patient] = sum(stream, messages[patient])
    total = [crossing(hospital, p, QUESTIONS[0], message) for p, message in messages.items()]
    assert sum(total) == 0


def test_two_chat_models_may_share_one_engine(chat):
    assert ChatMRRAG(chat.llm).llm is chat.llm
