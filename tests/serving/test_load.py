"""Many users at once: no answer from another patient's evidence, and no work for nobody."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.serving.http.work import EventStream
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running


@pytest.mark.slow
def test_interleaved_patients_keep_their_evidence(client, service, corpus):
    expected = {}
    for number, path in enumerate(corpus.images):
        image = service.read_image(path.read_bytes())
        answer = service.ask(image, corpus.question).as_dict()
        expected[number] = (answer["answer"], [one["pair_id"] for one in answer["sources"]])
    assert len({str(one) for one in expected.values()}) > 1

    def by_ask(number):
        body = {"question": corpus.question, "image": corpus.data_url(number)}
        answer = client.post("/v1/ask", json=body).json()
        return number, answer["answer"], [one["pair_id"] for one in answer["sources"]]

    def by_chat(number):
        part = {"type": "image_url", "image_url": {"url": corpus.data_url(number)}}
        text = {"type": "text", "text": corpus.question}
        messages = [{"role": "user", "content": [text, part]}]
        body = {"model": "phantom", "messages": messages, "stream": True}
        pieces, sources = "", []
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if not line or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                pieces += chunk["choices"][0]["delta"].get("content", "")
                sources = chunk.get("mrrag", {}).get("sources", sources)
        return number, pieces, [one["pair_id"] for one in sources]

    with ThreadPoolExecutor(16) as threads:
        work = [threads.submit((by_ask, by_chat)[n % 2], n // 2 % 4) for n in range(48)]
        for number, text, pairs in (one.result() for one in work):
            assert (text, pairs) == expected[number]


@pytest.fixture
def slow(service, monkeypatch):
    """A service whose answers come word by word; counts those begun and those that were ended."""
    states = {"begun": 0, "ended": threading.Event(), "words": 0}
    whole = service.stream

    def stream(*arguments, **options):
        answer = whole(*arguments, **options)
        replies = answer._replies

        def slowly():
            states["begun"] += 1
            try:
                for _ in range(1000):
                    time.sleep(0.02)
                    states["words"] += 1
                    yield type("Reply", (), {"delta": "word "})()
            finally:
                replies.close()
                states["ended"].set()

        answer._replies = slowly()
        return answer

    monkeypatch.setattr(service, "stream", stream)
    return states


@pytest.mark.parametrize("kind", ["ask", "chat", "stream"])
def test_the_work_of_a_client_that_hangs_up_is_stopped(service, corpus, slow, kind):
    part = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    text = {"type": "text", "text": corpus.question}
    chat = {"model": "phantom", "messages": [{"role": "user", "content": [text, part]}]}
    path, body = {
        "ask": ("/v1/ask", {"question": corpus.question, "image": corpus.data_url()}),
        "chat": ("/v1/chat/completions", chat),
        "stream": ("/v1/chat/completions", {**chat, "stream": True}),
    }[kind]
    content = json.dumps(body).encode()
    with running(service, Settings()) as address:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            deadline = time.monotonic() + 20
            while slow["words"] < 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert slow["ended"].wait(5)
        assert slow["words"] < 500
        deadline = time.monotonic() + 5
        while "mrrag_http_requests_admitted 0.0" not in httpx.get(f"{address}/metrics").text:
            assert time.monotonic() < deadline


@pytest.mark.slow
def test_a_server_that_is_ended_does_not_wait_for_its_answers(service, corpus, slow):
    part = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    text = {"type": "text", "text": corpus.question}
    body = {"model": "phantom", "messages": [{"role": "user", "content": [text, part]}]}

    def ask(address):
        with pytest.raises(httpx.HTTPError), httpx.Client(timeout=60) as client:
            client.post(f"{address}/v1/chat/completions", json=body).raise_for_status()

    with running(service, Settings()) as address:
        thread = threading.Thread(target=ask, args=(address,))
        thread.start()
        while slow["words"] < 3:
            time.sleep(0.02)
    thread.join(20)
    assert not thread.is_alive()
    assert slow["ended"].wait(5)


def test_a_client_that_never_reads_is_let_go(service):
    ended = threading.Event()

    def prepare(app):
        @app.get("/endless")
        async def endless():
            async def pieces():
                try:
                    while True:
                        yield "x" * 1_000_000
                finally:
                    ended.set()

            return EventStream(pieces())

    with running(service, Settings(body_seconds=0.5), prepare) as address:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert ended.wait(20)
        assert httpx.get(f"{address}/healthz").is_success


def test_a_client_that_hangs_up_while_it_sends_is_no_fault(service, caplog):
    with caplog.at_level(logging.INFO), running(service, Settings()) as address:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            head = "POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            time.sleep(0.2)
        deadline = time.monotonic() + 10
        while not any("POST /v1/ask" in one.getMessage() for one in caplog.records):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.slow
def test_a_stream_that_fails_late_ends_with_the_error(service, corpus, monkeypatch):
    whole = service.stream

    def stream(*arguments, **options):
        answer = whole(*arguments, **options)

        def failing():
            yield type("Reply", (), {"delta": "word "})()
            raise ModelError("the device is gone; Mrs Miller")

        answer._replies = failing()
        return answer

    monkeypatch.setattr(service, "stream", stream)
    part = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    text = {"type": "text", "text": corpus.question}
    messages = [{"role": "user", "content": [text, part]}]
    body = {"model": "phantom", "messages": messages, "stream": True}
    with running(service, Settings()) as address:
        response = httpx.post(f"{address}/v1/chat/completions", json=body)
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client,
            pytest.raises(openai.APIError, match="ModelError"),
        ):
            list(client.chat.completions.create(**body))
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "internal_error"
    assert "Miller" not in response.text


@pytest.fixture(scope="module")
def endless(corpus, tmp_path_factory):
    """A service whose (untrained) model writes until it is stopped."""
    from tests.tiny.families import write

    folder = write("llava", tmp_path_factory.mktemp("models") / "llava")
    loaded = Service.load(corpus.store, model=str(folder), max_new_tokens=600, device="cpu")
    loaded.llm.engine.model.generation_config.eos_token_id = None
    return loaded


def test_the_model_itself_stops_for_clients_that_hang_up(endless, corpus):
    before = endless.llm.engine.scheduler.stats.cancelled
    part = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    messages = [{"role": "user", "content": [{"type": "text", "text": corpus.question}, part]}]
    chat = {"model": "llava", "messages": messages, "stream": True}
    ask = {"question": corpus.question, "image": corpus.data_url()}
    connections = []
    with running(endless, Settings()) as address:
        parts = urlsplit(address)
        for path, body in [("/v1/ask", ask), ("/v1/chat/completions", chat)] * 2:
            content = json.dumps(body).encode()
            connection = socket.create_connection((parts.hostname, parts.port))
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            connections.append(connection)
        deadline = time.monotonic() + 30
        while (stats := endless.llm.engine.scheduler.stats).running + stats.waiting < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + 10
        while (stats := endless.llm.engine.scheduler.stats).cancelled < before + 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert (stats.running, stats.waiting, stats.answered) == (0, 0, 0)


def test_a_full_queue_of_the_model_is_told(endless, corpus, monkeypatch):
    monkeypatch.setattr(endless.llm.engine, "max_queue", 0)
    body = {"question": corpus.question, "image": corpus.data_url()}
    with running(endless, Settings()) as address:
        response = httpx.post(f"{address}/v1/ask", json=body)
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "busy"
    assert response.headers["retry-after"]
