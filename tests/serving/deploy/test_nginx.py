"""The proxy of deploy/nginx.conf, for real: streams, uploads, the token, nothing on disk."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.loopback import free_port
from tests.serving.server_process import serving

ROOT = Path(__file__).parents[3]
NAME, TOKEN = "mrrag.example.org", "a-token-for-the-proxy"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not here"),
]


@contextmanager
def proxied(folder: Path, upstream: int) -> Iterator[httpx.Client]:
    """The configuration as it stands, but for ports, TLS and the folders of its files."""
    port = free_port()
    site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    site = re.sub(r"^\s*ssl_.*\n", "", site, flags=re.M)
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    site = site.replace("server 127.0.0.1:8000", f"server 127.0.0.1:{upstream}")
    site = site.replace("/var/log/nginx/", f"{folder}/")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; daemon off;\n"
        f"events {{}}\nhttp {{\n{places}{site}}}\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    headers = {"Host": NAME, "Authorization": f"Bearer {TOKEN}"}
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
            _wait(client)
            yield client
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def proxy(corpus, folder) -> Iterator[httpx.Client]:
    options = ["--store", str(corpus.store), "--model", "phantom", "--device", "cpu"]
    options += ["--token", TOKEN, "--allowed-host", NAME]
    with serving(folder, *options) as served, proxied(folder, served.port) as client:
        yield client


def _wait(client: httpx.Client) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.1)


def ask(corpus) -> dict[str, str]:
    return {"question": corpus.question, "image": corpus.data_url()}


def test_a_question_is_answered_and_leaves_nothing_on_disk(proxy, folder, corpus):
    # Padding that the image reader does not mind: what is larger than nginx's usual buffers.
    image = corpus.images[0].read_bytes() + bytes(5 * 2**20)
    body = {**ask(corpus), "image": base64.b64encode(image).decode()}
    answer = proxy.post("/v1/ask", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["sources"]
    assert not list((folder / "client_body").iterdir())
    assert not list((folder / "proxy").iterdir())
    assert corpus.question not in (folder / "mrrag.log").read_text()


def test_the_token_is_wanted_and_passed_on(proxy, corpus):
    refused = proxy.post("/v1/ask", json=ask(corpus), headers={"Authorization": "Bearer no"})
    assert refused.status_code == 401


def test_too_large_a_request_is_refused(proxy):
    answer = proxy.post("/v1/ask", content=bytes(65 * 2**20))
    assert answer.status_code == 413


def test_a_stream_ends_as_it_should(proxy, corpus):
    image = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    text = {"type": "text", "text": corpus.question}
    body = {
        "model": "phantom",
        "stream": True,
        "messages": [{"role": "user", "content": [text, image]}],
    }
    answer = proxy.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_a_piece_arrives_before_the_next_is_written(tmp_path):
    """Behind a server that writes its second piece when the first has been read."""
    read, in_time = threading.Event(), []

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if self.path == "/healthz":
                return
            self.wfile.write(b"data: first\n\n")
            in_time.append(read.wait(20))
            self.wfile.write(b"data: second\n\n")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        with (
            proxied(tmp_path, upstream.server_port) as client,
            client.stream("GET", "/stream") as answer,
        ):
            for piece in answer.iter_raw():
                if b"first" in piece:
                    read.set()
        upstream.shutdown()
    assert in_time == [True]
