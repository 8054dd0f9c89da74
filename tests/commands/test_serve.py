"""``mrrag serve`` and ``mrrag ask --server``: real processes and a real socket."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mrrag_llamaindex import __version__
from tests.commands.conftest import run

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def process(corpus):
    """A server, and the line that says where it listens; Ctrl-C ends it cleanly."""
    given = ("--store", corpus.store, "--model", "phantom", "--port", 0, "--token", TOKEN)
    given += ("--verbose", "--json")
    serving = subprocess.Popen(
        [sys.executable, "-m", "mrrag_llamaindex.cli", "serve", *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (line := serving.stderr.readline()).startswith("serving: "):
        assert line, serving.wait()
    yield serving, line
    serving.send_signal(signal.SIGINT)
    _, rest = serving.communicate(timeout=30)
    assert serving.returncode == 0, rest
    logged = " mrrag_llamaindex.serving."
    lines = [line for line in rest.splitlines() if logged not in line]
    assert [line for line in lines if not line.startswith("note:")] == []


@pytest.fixture(scope="module")
def address(process):
    return re.search(r"http://\S+?(?=,)", process[1]).group()


@pytest.mark.slow
def test_the_first_line_says_what_is_served_and_where(process, corpus):
    line = process[1]
    for word in ("http://127.0.0.1:", "model phantom on cpu", str(corpus.store), "24 pairs"):
        assert word in line


@pytest.mark.slow
def test_json_says_the_same_to_a_program(process, address, corpus):
    served = {"address": address, "model": "phantom", "device": "cpu"}
    expected = {**served, "store": str(corpus.store), "pairs": 24}
    assert json.loads(process[0].stdout.readline()) == expected


def ask(address, corpus, *options, token=TOKEN):
    shown = ("--token", token) if token else ()
    arguments = ("ask", "--server", address, "--image", corpus.image, *shown, *options)
    return run(*arguments, corpus.question)


@pytest.mark.slow
def test_a_server_answers_as_the_command_alone_does(address, corpus, tmp_path):
    alone = run(
        *("ask", "--store", corpus.store, "--image", corpus.image, "--model", "phantom"),
        *("--explain", "--json", corpus.question),
    )
    remote = ask(address, corpus, "--explain", "--json")
    assert remote.code == 0, remote.err
    expected, got = json.loads(alone.out), json.loads(remote.out)
    del expected["seconds"], got["seconds"]
    assert got == expected
    picture = tmp_path / "answer.svg"
    table = ask(address, corpus, "--explain", "--picture", picture)
    assert picture.read_text().count("no image") == 6  # those stay on the server
    assert table.out.count("synthetic-") == 6
    assert "moved" in table.out
    assert "not a medical device" in table.out


LIGHT = """
import sys
from mrrag_llamaindex.cli import main

def mrrag(*arguments):
    sys.argv = ["mrrag", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code

address, token, image, question = sys.argv[1:]
assert not mrrag("serve", "--help")
assert not mrrag("ask", "--server", address, "--token", token, "--image", image, "--json", question)
heavy = {"torch", "transformers", "llama_index", "chromadb", "fastapi"} & sys.modules.keys()
assert not heavy, heavy
sys.modules["fastapi"] = None
assert mrrag("serve", "--demo") == 2
"""


@pytest.mark.slow
def test_help_and_asking_a_server_import_no_model_and_a_missing_extra_is_named(address, corpus):
    given = (address, TOKEN, corpus.image, corpus.question)
    command = [sys.executable, "-c", LIGHT, *map(str, given)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "--token" in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["answer"]
    assert "fastapi" in result.stderr
    assert "mrrag-llamaindex[serve]" in result.stderr


def refused(result, *words):
    assert result.code == 2, result.err
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert result.out == ""


@pytest.mark.slow
def test_what_a_server_says_no_to(address, corpus, tmp_path):
    refused(ask(address, corpus, token=None), "wants its token", "--token")
    refused(ask(address, corpus, token="another-token-of-it"), "another token")
    refused(ask(address, corpus, "--frame", 4), "frame 4")
    refused(ask(address, corpus, "--abstain"), "calibration")
    refused(ask(address, corpus, "--store", corpus.store), "--store", "mrrag serve")
    refused(ask(address, corpus, "--by", "vote"), "--by")
    refused(ask("127.0.0.1:80", corpus), "http://host:port")
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    refused(run("ask", "--server", address, "--image", empty, corpus.question), "--image", "empty")


def test_a_server_that_is_away_or_silent(corpus):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        slow = ask(f"http://127.0.0.1:{port}", corpus, "--timeout", "0.5")
        refused(slow, "did not answer within 0.5 seconds")
    refused(ask(f"http://127.0.0.1:{port}", corpus), "cannot be reached", "mrrag serve")


@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_a_server_that_is_another_one_or_older(corpus, version):
    class Other(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(422)
            if version:
                self.send_header("mrrag-version", version)
            self.end_headers()
            self.wfile.write(b'{"error": {"code": "unknown_field", "message": "no field k"}}')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = ask(f"http://127.0.0.1:{server.server_port}", corpus)
        server.shutdown()
    words = (version, __version__, "no field k") if version else ("none of mrrag serve",)
    refused(result, *words)


@pytest.mark.slow
def test_bad_options_are_told_before_anything_is_loaded(corpus, address):
    port = address.rpartition(":")[2]
    store = ("serve", "--store", corpus.store)
    refused(run(*store, "--port", port), port, "in use")
    refused(run(*store, "--host", "0.0.0.0", "--port", 0), "--token", "MRRAG_TOKEN")
    refused(run(*store, "--token", "short"), "16 characters")
    refused(run("serve"), "--store", "--demo")
    refused(run(*store, "--demo"), "--demo")
    refused(run("page"), "mrrag page --demo")
    refused(run("serve", "--store", corpus.folder / "none", "--port", 0), "none")
