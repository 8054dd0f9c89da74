"""The levels at which clients ask, each with any number of clients at once."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core import QueryBundle
from PIL import Image

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
from mrrag_llamaindex.generation.decoding.decoding import Greedy
from mrrag_llamaindex.generation.decoding.guidance import contrast_of, probe_for
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.generation.runner import BatchCall


@dataclass(frozen=True)
class Question:
    """One question, in every form in which it is asked.

    Attributes
    ----------
    text, path, image
    request : PromptRequest
        With the documents that the index retrieves for it.
    """

    text: str
    path: Path
    image: Image.Image
    request: PromptRequest

    @classmethod
    def retrieved(cls, index: MRRAGIndex, text: str, path: Path) -> Question:
        """Look up the documents of a question."""
        hits = index.as_retriever().hits(text, str(path))[:6]
        documents = [PromptDocument(hit.pair_id, hit.report, hit.score) for hit in hits]
        with Image.open(path) as image:
            return cls(text, path, image.convert("RGB"), PromptRequest(text, documents))


def in_threads(clients: int, questions: Sequence[Question], client: Callable) -> float:
    """Seconds in which all questions are answered, every client asking one at a time.

    ``client()`` returns the function that one client asks with.
    """
    waiting, lock, failures = iter(questions), threading.Lock(), []
    ready = threading.Barrier(clients + 1)

    def work() -> None:
        ask = client()
        ready.wait()
        while not failures:
            with lock:
                question = next(waiting, None)
            if question is None:
                return
            try:
                ask(question)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - begun


class Level(ABC):
    """Where clients meet the package."""

    @abstractmethod
    def seconds(self, clients: int, questions: Sequence[Question]) -> float:
        """Seconds in which so many clients have all questions answered."""


class Engine(Level):
    """Calls of `LlavaEngine.generate` from threads, prompts with their documents ready."""

    def __init__(self, llm: MRRAGLLaVA) -> None:
        self.engine, self.policy = llm.engine, llm.policy

    def ask(self, question: Question) -> None:
        self.engine.generate([question.request], [question.image], policy=self.policy)

    def direct(self, question: Question) -> None:
        """Ask past the queue: what one call costs when there is nothing in front of the model."""
        answer_directly(self.engine, question, self.policy)

    def seconds(self, clients, questions):
        return in_threads(clients, questions, lambda: self.ask)


def answer_directly(engine: LlavaEngine, question: Question, policy) -> str:
    """Run one request through the model in this thread."""
    (image,) = engine.read_images([question.request], [question.image])
    prompt = engine.prompt(question.request, image, policy)
    (batch,) = engine._batches([prompt], [image])
    plan, _ = engine.planner.plan([prompt], policy, batch.shared)
    contrast = contrast_of(policy, Greedy())
    probe = probe_for(engine, [question.request], [prompt], [image], contrast, engine.runner)
    call = BatchCall([prompt], [image], plan, probe, engine.max_new_tokens, batch.shared)
    (tokens,) = Greedy().run(engine.runner, call)
    return engine.tokenizer.decode(tokens, skip_special_tokens=True)


class QueryEngine(Level):
    """``aquery`` of a stock LlamaIndex engine, all clients in one event loop."""

    def __init__(self, index: MRRAGIndex, llm: MRRAGLLaVA) -> None:
        self.engine = index.as_query_engine(llm=llm)

    def seconds(self, clients, questions):
        waiting = iter(questions)

        async def client():
            for question in waiting:  # shared: each takes the next one
                answer = await self.engine.aquery(
                    QueryBundle(question.text, image_path=str(question.path))
                )
                assert str(answer)

        async def all_of_them():
            begun = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(clients)))
            return time.perf_counter() - begun

        return asyncio.run(all_of_them())


class Http(Level):
    """``POST /v1/ask`` over loopback, each client with a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def client(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.connect()

        def ask(question: Question) -> None:
            image = base64.b64encode(question.path.read_bytes()).decode()
            body = json.dumps({"question": question.text, "image": image})
            connection.request("POST", "/v1/ask", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, (answer.status, text)

        return ask

    def seconds(self, clients, questions):
        return in_threads(clients, questions, self.client)
