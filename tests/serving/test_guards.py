"""Who may ask, how much they may send, and what they are told when they may not."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.serving.app import create_app
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.http.tokens import WrongTokens
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running

TOKEN = "a-token-of-the-tests"


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert response.json().keys() == {"error"}
    assert "Traceback" not in response.text
    return error["message"]


@pytest.fixture(scope="module")
def guarded(service):
    with running(service, Settings(token=TOKEN)) as address:
        yield address


def test_any_address_but_loopback_needs_a_token():
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InputError, match="token"):
            Settings(host=host)
        Settings(host=host, token=TOKEN)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        Settings(host=host)
    with pytest.raises(InputError, match="16 characters"):
        Settings(token="short")
    with pytest.raises(InputError, match="printable"):
        Settings(token="töken-of-the-tests")


def test_without_the_token_only_health_is_told(guarded):
    with httpx.Client(base_url=guarded) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/docs", "/v1/pairs/x", "/"):
            response = client.get(path)
            refused(response, 401, "token_required")
            assert response.headers["www-authenticate"] == "Bearer"
        for shown in ("Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9", TOKEN):
            headers = {"Authorization": shown.encode("latin-1")}
            refused(client.get("/v1/models", headers=headers), 401, "token_required")
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).is_success


def test_a_browser_shows_the_token_once(guarded):
    with httpx.Client(base_url=guarded, headers={"Accept": "text/html"}) as client:
        sent = client.get("/docs")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login")
        assert 'name="token"' in client.get("/login").text
        assert client.post("/login", data={"token": "another-token-here"}).status_code == 401
        assert client.get("/docs").status_code == 303
        assert client.post("/login", data={"token": TOKEN}).status_code == 303
        (cookie,) = client.cookies.jar
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert TOKEN not in cookie.value
        assert client.get("/docs").is_success


def test_whoever_has_no_token_fills_no_memory_at_the_login(guarded):
    head = (
        "POST /login HTTP/1.1\nHost: localhost\nConnection: close\nTransfer-Encoding: chunked\n\n"
    )
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    answer = exchange(guarded, head, [chunk])  # no end: an answer shows that none was waited for
    assert b" 413 " in answer.splitlines()[0]


def test_pages_of_other_origins_and_names_are_refused(client, corpus):
    body = {"question": corpus.question, "image": corpus.data_url()}
    for headers in (
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ):
        refused(client.post("/v1/ask", json=body, headers=headers), 403, "other_origin")
    for host in ("example.org", "example.org:8000", "127.0.0.1.example.org", ""):
        refused(client.get("/v1/models", headers={"Host": host}), 403, "unknown_host")
    own = str(client.base_url).rstrip("/")
    headers = {"Origin": own, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/ask", json=body, headers=headers).is_success
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/docs", headers=navigation).is_success


def test_a_name_behind_a_proxy_is_allowed_by_name(service):
    with running(service, Settings(allowed_hosts=("rag.example.org",))) as address:
        headers = {"Host": "rag.example.org", "Origin": "https://rag.example.org"}
        assert httpx.get(f"{address}/v1/models", headers=headers).is_success


def exchange(address: str, head: str, body: list[bytes], pause: float = 0.0) -> bytes:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        try:
            for piece in body:
                connection.sendall(piece)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return received


HEAD = "POST /v1/ask HTTP/1.1\nHost: localhost\nConnection: close\nContent-Type: application/json\n"


@pytest.fixture(scope="module")
def small(service):
    with running(service, Settings(upload_bytes=100_000, body_seconds=1.0)) as address:
        yield address


def test_a_body_that_says_that_it_is_too_large_is_not_read(small):
    answer = exchange(small, f"{HEAD}Content-Length: 9000000000000\n\n", [])
    assert b" 413 " in answer.splitlines()[0]
    assert b'"too_large"' in answer


def test_a_body_that_does_not_say_so_is_read_no_further(small):
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    answer = exchange(small, f"{HEAD}Transfer-Encoding: chunked\n\n", [chunk] * 50)
    assert b" 413 " in answer.splitlines()[0]


@pytest.mark.slow
def test_a_body_that_does_not_arrive_is_given_up(small):
    started = time.monotonic()
    answer = exchange(small, f"{HEAD}Content-Length: 1000\n\n", [b"{"])
    assert b" 408 " in answer.splitlines()[0]
    assert time.monotonic() - started < 5


def test_forms_and_images_have_limits(client, small, service, corpus):
    big = {"image": ("cxr.png", b"x" * 200_000)}
    refused(httpx.post(f"{small}/v1/ask", data={"question": "?"}, files=big), 413, "too_large")
    two = [("image", corpus.images[0].open("rb")), ("image", corpus.images[1].open("rb"))]
    with two[0][1], two[1][1]:
        refused(client.post("/v1/ask", data={"question": "?"}, files=two), 400, "bad_input")
    pixels = service._image_pixels
    service._image_pixels = 100
    try:
        body = {"question": corpus.question, "image": corpus.data_url()}
        assert "more than" in refused(client.post("/v1/ask", json=body), 400, "bad_image")
    finally:
        service._image_pixels = pixels


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/ask", 405, "method_not_allowed"),
        ("GET", "/v1/pairs/none", 404, "not_found"),
        ("GET", "/v1/pairs/none/image", 404, "not_found"),
        ("GET", "/v1/pairs/synthetic-0001-1/image?low=x", 422, "bad_field"),
        ("POST", "/v1/ask", 415, "bad_content_type"),
    ],
)
def test_every_refusal_has_a_code_and_a_sentence(client, method, path, status, code):
    refused(client.request(method, path), status, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 422, "bad_json"),
        (b"[1]", 422, "bad_field"),
        (b"[" * 100_000, 422, "bad_json"),
        (b'{"image": "AAAA"}', 422, "bad_field"),
        (b'{"question": "?", "image": "AAAA"}', 400, "bad_image"),
        (b'{"question": "?", "image": ""}', 400, "bad_image"),
        (b'{"question": "?", "image": "data:,"}', 400, "bad_image"),
        (b'{"question": "\\ud800", "image": "%s"}', 400, "bad_input"),
        (b'{"question": "?", "image": "%s", "k": 0}', 422, "bad_field"),
        (b'{"question": "?", "image": "%s", "k": 1e400}', 422, "bad_field"),
        (b'{"question": "?", "image": "%s", "window": [5, 5]}', 400, "bad_image"),
        (b'{"question": "?", "image": "%s", "frame": 7}', 400, "bad_image"),
        (b'{"question": "?", "image": "%s", "minimum_probability": 0.5}', 400, "bad_input"),
    ],
)
def test_bad_requests_are_refused(client, corpus, body, status, code):
    content = body.replace(b"%s", corpus.data_url().encode())
    headers = {"Content-Type": "application/json"}
    refused(client.post("/v1/ask", content=content, headers=headers), status, code)


def bad_files():
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(whole, "JPEG")
    yield "empty", b""
    yield "text", b"not an image"
    yield "truncated", whole.getvalue()[:2000]
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    yield "tiny", tiny.getvalue()
    pages = io.BytesIO()
    page = Image.new("L", (64, 64))
    page.save(pages, "TIFF", save_all=True, append_images=[page])
    yield "pages", pages.getvalue()
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    head = tiny.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header))
    yield "bomb", head + tiny.getvalue()[len(head) :]
    yield "dicom", bytes(128) + b"DICM" + bytes(64)
    yield "page", b"<script>alert(1)</script>"


BAD_FILES = dict(bad_files())


@pytest.mark.parametrize(("name", "data"), BAD_FILES.items(), ids=BAD_FILES)
def test_bad_files_are_refused_in_every_form(client, corpus, name, data):
    form = {"question": corpus.question}
    by_form = refused(
        client.post("/v1/ask", data=form, files={"image": (f"{name}.png", data)}), 400, "bad_image"
    )
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    body = {"question": corpus.question, "image": url}
    assert refused(client.post("/v1/ask", json=body), 400, "bad_image") == by_form
    part = {"type": "image_url", "image_url": {"url": url}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]
    chat = {"model": "phantom", "messages": messages}
    refused(client.post("/v1/chat/completions", json=chat), 400, "bad_image")


def test_a_form_without_its_boundary(client):
    headers = {"Content-Type": "multipart/form-data"}
    refused(client.post("/v1/ask", content=b"x", headers=headers), 400, "bad_form")


def test_a_fault_tells_neither_client_nor_log_what_was_asked(service, corpus, caplog, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a report: Mrs Miller has a nodule")

    monkeypatch.setattr(service.llm.engine.__class__, "stream", fail)
    monkeypatch.setattr(service.llm.engine.__class__, "generate", fail)
    with caplog.at_level(logging.DEBUG), running(service, Settings()) as address:
        body = {"question": "Has Mrs Miller a nodule?", "image": corpus.data_url()}
        message = refused(httpx.post(f"{address}/v1/ask", json=body), 500, "internal_error")
        httpx.get(f"{address}/v1/pairs/synthetic-0001-1")
    assert "Miller" not in message
    ours = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]
    assert any("POST /v1/ask 500" in one.getMessage() for one in ours)
    text = "\n".join(logging.Formatter().format(one) for one in ours)
    for secret in ("Miller", "nodule", "synthetic-0001", str(corpus.store), "base64"):
        assert secret not in text


@pytest.mark.slow
def test_too_many_requests_are_told_to_come_back(service, corpus, monkeypatch):
    held = threading.Event()
    whole = service.retrieve

    def slow(*arguments):
        held.wait(20)
        return whole(*arguments)

    monkeypatch.setattr(service, "retrieve", slow)
    body = {"question": corpus.question}
    answers = []
    with running(service, Settings(running=1, waiting=1)) as address:

        def ask():
            answers.append(httpx.post(f"{address}/v1/retrieve", json=body, timeout=30))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        response = httpx.post(f"{address}/v1/retrieve", json=body)
        refused(response, 429, "too_many_requests")
        assert int(response.headers["retry-after"]) > 0
        metrics = httpx.get(f"{address}/metrics").text
        assert 'mrrag_http_refusals_total{code="too_many_requests"} 1.0' in metrics
        assert "mrrag_http_requests_admitted 2.0" in metrics
        held.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert httpx.post(f"{address}/v1/retrieve", json=body).is_success


def test_a_request_has_a_time_limit(service, corpus, monkeypatch):
    ended = threading.Event()

    def endless(*_, cancelled, **__):
        ended.set() if cancelled.wait(20) else None

    monkeypatch.setattr(service, "ask", endless)
    body = {"question": corpus.question, "image": corpus.data_url()}
    with running(service, Settings(seconds=0.5)) as address:
        response = httpx.post(f"{address}/v1/ask", json=body)
    refused(response, 503, "timeout")
    assert int(response.headers["retry-after"]) > 0
    assert ended.wait(5)


def test_the_description_loads_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert "/v1/chat/completions" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/ask", "/v1/retrieve", "/v1/chat/completions", "/v1/models"} <= paths.keys()
    fields = paths["/v1/ask"]["post"]["requestBody"]["content"]
    assert "weights" in fields["application/json"]["schema"]["properties"]


def test_curl_as_documented(server, corpus):
    command = ["curl", "-sf", f"{server}/v1/ask", "-F", f"image=@{corpus.images[0]}"]
    options = ["-F", f"question={corpus.question}", "-F", "explain=true", "-F", "k=3"]
    answer = subprocess.run([*command, *options], capture_output=True, check=True, timeout=60)
    assert len(json.loads(answer.stdout)["sources"]) == 3


def test_the_server_is_not_imported_with_the_package():
    code = "import mrrag_llamaindex, sys; assert 'fastapi' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"), ""),
        (ConnectionResetError(), ""),
        (RuntimeError("Response content longer than Content-Length"), "internal_error"),
    ],
)
async def test_a_client_that_has_gone_is_no_fault_of_the_server(failure, code, service, caplog):
    app = create_app(service, Settings())

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.body":
            raise failure

    scope = {
        "type": "http", "method": "GET", "path": "/healthz", "raw_path": b"/healthz",
        "query_string": b"", "headers": [(b"host", b"localhost")], "http_version": "1.1",
        "scheme": "http", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, receive, send)
    assert bool(code) == any("request failed" in record.message for record in caplog.records)


def test_wrong_tokens_are_not_heard_for_ever(service):
    """Whichever way they are shown; and the right one of whoever does so waits as well."""
    with running(service, Settings(token=TOKEN)) as address, httpx.Client(base_url=address) as one:
        right = {"Authorization": f"Bearer {TOKEN}"}
        wrong = {"Authorization": "Bearer another-token-here"}
        for _ in range(30):
            assert one.post("/login", data={"token": "another-token-here"}).status_code == 401
            refused(one.get("/v1/models", headers=wrong), 401, "token_required")
        assert one.post("/login", data={"token": TOKEN}).status_code == 429
        for headers in (wrong, right):
            told = one.get("/v1/models", headers=headers)
            refused(told, 429, "too_many_tokens")
            assert 0 < int(told.headers["retry-after"]) <= 60
        refused(one.get("/v1/models"), 401, "token_required")
        assert one.get("/healthz").is_success


def test_an_address_is_heard_again_after_a_while_and_others_always():
    wrong = WrongTokens(most=2, seconds=0.05, addresses=3)
    for _ in range(2):
        wrong.note("10.0.0.1")
    wrong.require_few("10.0.0.2")
    with pytest.raises(ApiError):
        wrong.require_few("10.0.0.1")
    time.sleep(0.06)
    wrong.require_few("10.0.0.1")
    for number in range(10):
        wrong.note(f"10.0.1.{number}")
    assert len(wrong._seen) == 3


@pytest.mark.slow
def test_a_store_that_is_gone_is_said_so_everywhere(corpus, tmp_path, caplog):
    folder = tmp_path / "of Mrs Miller"
    shutil.copytree(corpus.store, folder)
    service = Service.load(folder, model="phantom", max_new_tokens=4, device="cpu")
    body = {"question": corpus.question, "image": corpus.data_url()}
    with running(service, Settings()) as address, httpx.Client(base_url=address) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        (one,) = client.post("/v1/retrieve", json={**body, "k": 1}).json()["documents"]
        folder.rename(tmp_path / "elsewhere")
        pair = f"/v1/pairs/{one['pair_id']}"
        answers = [client.get(path) for path in ("/healthz", pair, f"{pair}/image")]
        answers += [client.post(f"/v1/{path}", json=body) for path in ("ask", "retrieve")]
        for answer in answers:
            message = refused(answer, 503, "store_unavailable")
            assert message.count(".") == 0
            assert "Miller" not in message
        assert client.get("/").status_code == 503
    logged = "".join(one.getMessage() for one in caplog.records)
    assert "Miller" not in logged
    assert "start the server anew" in logged
