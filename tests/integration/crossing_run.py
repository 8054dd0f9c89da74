"""Many questions about many patients at once, in every way an app asks them; crossings counted.

Run by hand: ``python -m tests.integration.crossing_run --queries 10000 --seed 0``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
from llama_index.core import QueryBundle
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.tools import QueryEngineTool

from mrrag_llamaindex import MRRAGLLaVA, MRRAGPostprocessor, answer_trace, query_image

QUESTIONS = (
    "Is there a pleural effusion?",
    "Is there a nodule?",
    "Is there edema?",
    "Is there a pneumothorax?",
)


class Crossings:
    """Engines over one index and one model, and the ways in which they are asked.

    Each way takes a patient and a question and returns the sources of its answer.
    """

    def __init__(self, hospital: Any, llm: MRRAGLLaVA, agent_llm: Any = None) -> None:
        self.hospital = hospital
        index = hospital.index
        self.index, self.llm, self.agent_llm = index, llm, agent_llm
        self.whole = index.as_query_engine(llm=llm)
        self.streaming = index.as_query_engine(llm=llm, streaming=True)
        self.citing = index.as_citation_engine(llm=llm)
        fusion = QueryFusionRetriever(
            [index.as_retriever()], llm=llm, num_queries=1, similarity_top_k=6, use_async=False
        )
        self.fused = RetrieverQueryEngine.from_args(
            fusion, llm=llm, node_postprocessors=[MRRAGPostprocessor(index, llm=llm)]
        )
        self.pool = ThreadPoolExecutor(4)
        self.ways: list[Callable[[str, str], Any]] = [
            self.bundle,
            self.streamed,
            self.asynchronous,
            self.generator_handler,
            self.asynchronous_generator,
            self.chat,
            self.bound_chat,
            self.citations,
            self.fusion,
            self.web,
        ]
        if agent_llm is not None:
            self.ways.append(self.agent)

    def image(self, patient: str) -> str:
        return self.hospital.images[patient]

    def bundle(self, patient, question):
        return self.whole.query(QueryBundle(question, image_path=self.image(patient))).source_nodes

    def streamed(self, patient, question):
        with query_image(self.image(patient)):
            response = self.streaming.query(question)
        list(response.response_gen)
        return response.source_nodes

    def asynchronous(self, patient, question):
        async def ask():
            with query_image(self.image(patient)):
                return await asyncio.create_task(self.whole.aquery(question))

        return asyncio.run(ask()).source_nodes

    def generator_handler(self, patient, question):
        """As a web framework advances it: each step in a thread, in a copied context."""

        def handler():
            with query_image(self.image(patient)):
                yield "begin"
                response = self.streaming.query(question)
                yield from response.response_gen
                yield response.source_nodes

        steps, last = handler(), None
        end = object()
        while True:
            step = self.pool.submit(contextvars.copy_context().run, next, steps, end).result()
            if step is end:
                return last
            last = step

    def asynchronous_generator(self, patient, question):
        async def handler():
            with query_image(self.image(patient)):
                yield "begin"
                response = await self.streaming.aquery(question)
                async for piece in response.async_response_gen():
                    yield piece
                yield response.source_nodes

        async def read():
            return [step async for step in handler()][-1]

        return asyncio.run(read())

    def chat(self, patient, question):
        chat = self.index.as_chat_engine(ChatMode.CONTEXT, llm=self.llm, similarity_top_k=6)
        with query_image(self.image(patient)):
            response = chat.stream_chat(question)
        list(response.response_gen)
        return response.source_nodes

    def bound_chat(self, patient, question):
        chat = self.index.as_chat_engine(llm=self.llm, image=self.image(patient))
        return chat.chat(question).source_nodes

    def citations(self, patient, question):
        return self.citing.query(QueryBundle(question, image_path=self.image(patient))).source_nodes

    def fusion(self, patient, question):
        with query_image(self.image(patient)):
            return self.fused.query(question).source_nodes

    def agent(self, patient, question):
        responses = []

        async def ask():
            engine = self.index.as_query_engine(llm=self.llm)
            tool = QueryEngineTool.from_defaults(engine, name="ask_image", description="asks")
            agent = FunctionAgent(tools=[tool], llm=self.agent_llm(question))
            with query_image(self.image(patient)):
                result = await agent.run(question)
            responses.extend(result.tool_calls)

        asyncio.run(ask())
        return responses[0].tool_output.raw_output.source_nodes

    def web(self, patient, question):
        nodes = []

        async def app(scope, receive, send):
            asked = parse_qs(scope["query_string"].decode())
            headers = {"type": "http.response.start", "status": 200, "headers": []}
            await send(headers)
            with query_image(self.image(asked["patient"][0])):
                response = await self.streaming.aquery(asked["question"][0])
            nodes.extend(response.source_nodes)
            async for piece in response.async_response_gen():
                body = piece.encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        async def request():
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                given = {"patient": patient, "question": question}
                answer = await client.get("/", params=given)
            assert answer.text

        asyncio.run(request())
        return nodes

    def crossed(self, patient: str, question: str, nodes: Any) -> bool:
        """Whether anything but this patient's evidence was read or steered to."""
        answers = answer_trace(nodes)
        ticket = nodes[0].node._ticket
        return not (
            len(answers) == 1
            and len(answers[0].document_ids) == 6
            and self.hospital.is_evidence(patient, question, answers[0].document_ids)
            and answers[0].steering.applied
            and ticket.image.content == Path(self.image(patient)).read_bytes()
            and ticket.question == question
        )

    def run(self, queries: int, seed: int, threads: int = 4) -> Counter[str]:
        """Return the number of questions and of crossings of each way."""
        rng = random.Random(seed)
        patients = sorted(self.hospital.images)
        jobs = [
            (self.ways[number % len(self.ways)], rng.choice(patients), rng.choice(QUESTIONS))
            for number in range(queries)
        ]
        rng.shuffle(jobs)

        def work(job):
            way, patient, question = job
            return way.__name__, self.crossed(patient, question, way(patient, question))

        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(threads) as pool:
            for name, crossed in pool.map(work, jobs):
                counts[name] += 1
                counts["crossings"] += crossed
        return counts


def main() -> None:
    from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
    from tests.integration.conftest import make_hospital
    from tests.integration.test_existing_app import CallsTheTool
    from tests.tiny.towers import resnet_bert

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--queries", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    towers = resnet_bert(build_tokenizer(), dimension=32, width=16, layers=1, tokens=128)
    with tempfile.TemporaryDirectory() as folder:
        hospital = make_hospital(towers, Path(folder))
        llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
        started = time.perf_counter()
        counts = Crossings(hospital, llm, CallsTheTool.about).run(given.queries, given.seed)
    seconds = time.perf_counter() - started
    crossings = counts.pop("crossings")
    for name, number in sorted(counts.items()):
        print(f"{name:24}{number:6}")
    print(
        f"{given.queries} questions, {len(hospital.images)} patients, seed {given.seed}: "
        f"{crossings} crossings, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
