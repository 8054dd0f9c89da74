"""Many users at once: no answer from another patient's evidence, and no work for nobody."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running


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
